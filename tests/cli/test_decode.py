import json

import pytest


def test_a_role_is_shown_bit_by_bit_with_what_kvm_prints(invoke):
    lines = invoke("decode", "role", "3711").output.splitlines()
    assert lines[0] == "role 0x3711: indirect shadow page of level 1"
    assert "      4  has_4_byte_gpte  0x1  the guest's entries have 4 bytes, 1024 a table" in lines
    assert "  KVM prints: l1 4-byte q0 wux nxe ad" in lines


def test_several_words_and_json(invoke):
    lines = invoke("decode", "--json", "spte", "a65", "gpa:806000|e67").output.splitlines()
    first, second = map(json.loads, lines)
    assert first["printed"] == "(r-xu)"
    assert "gpa:806000" in second["title"]


def test_the_kernel_decides_what_an_empty_spte_is(invoke):
    assert "It maps nothing" in invoke("decode", "spte", "none63").output
    assert "This kernel's empty SPTE is 0x0" in invoke("decode", "--kernel", "6.1", "spte", "none63").output


def test_the_host_decides_where_an_mmio_spte_has_its_frame(invoke):
    lines = invoke("decode", "ept", "f80d0000026", "--l1tf", "44").output.splitlines()
    assert lines[0] == "ept 0xf80d0000026: MMIO SPTE of gfn 0xd0000, memslot generation 0x4"
    (ones,) = (line for line in lines if line.startswith("  43:39  L1TF "))
    assert "0x1f     ones: no line of the L1 cache" in ones


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("role", "zz"), "the role must be hexadecimal, 0x3713 or 3713, not 'zz'"),
        (("gpte", "2027", "--mode", "32", "--level", "3"), "mode 32 has no level 3; it has 2 levels"),
        (("role", "1", "--level", "2"), "--level: makes no difference to role; leave it out"),
        (
            ("spte", "a65", "--host-bits", "46", "--l1tf", "44"),
            "l1tf=44 does not fit a host with 46 physical",
        ),
        (("gpte", "2027", "--l1tf", "44"), "--l1tf: makes no difference to gpte; leave it out"),
        (("exit", "x"), "'x' must be an exit code: "),
    ],
)
def test_what_cannot_be_decoded_is_one_line(invoke, arguments, said):
    result = invoke("decode", *arguments)
    assert result.exit_code != 0
    assert said in result.output + str(result.exception)
