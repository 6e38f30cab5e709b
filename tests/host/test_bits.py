import re
from pathlib import Path

from shadowmmu.host import bits

PXD = Path(bits.__file__).with_name("bits.pxd").read_text()
DEFINED = dict(re.findall(r"#define HOSTB_(\w+) (.+)", PXD))
DECLARED = dict(re.findall(r'const u64 (\w+) "(\w+)"', PXD))
CONSTANTS = {name: value for name, value in vars(bits).items() if name.isupper()}


def c_value(expression: str) -> int:
    return int(eval(expression.replace("ULL", "")))


def test_both_files_have_the_same_names() -> None:
    assert set(DEFINED) == set(DECLARED) == set(CONSTANTS)
    assert all(macro == f"HOSTB_{name}" for name, macro in DECLARED.items())


def test_both_files_have_the_same_values() -> None:
    assert {name: c_value(expression) for name, expression in DEFINED.items()} == CONSTANTS


def test_every_c_constant_is_64_bits_wide() -> None:
    assert all("ULL" in expression for expression in DEFINED.values())
