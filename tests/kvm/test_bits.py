import re
from pathlib import Path

from shadowmmu.kvm import bits

PXD = Path(bits.__file__).with_name("bits.pxd").read_text()
DEFINED = dict(re.findall(r"#define KVMB_(\w+) (\w+)", PXD))
DECLARED = dict(re.findall(r'const u64 (\w+) "(\w+)"', PXD))


def test_each_constant_of_c_is_the_macro_of_its_name() -> None:
    assert set(DEFINED) == set(DECLARED)
    assert {name: macro for name, macro in DECLARED.items() if macro != f"KVMB_{name}"} == {}


def test_both_files_have_the_same_values() -> None:
    values = {name: int(expression.removesuffix("ULL"), 0) for name, expression in DEFINED.items()}
    assert values == {name: value for name, value in vars(bits).items() if name in values}
