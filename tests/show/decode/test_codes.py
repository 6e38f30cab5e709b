"""Error codes and exit codes decoded."""

import pytest
from hypothesis import given, strategies as st

from shadowmmu.show.decode import WordError, decode_exit, decode_pferr, parse_exit, parse_word


@given(st.integers(0, (1 << 64) - 1))
def test_any_error_code_comes_back_from_its_fields(word: int) -> None:
    assert decode_pferr(word).encoded() == word


def test_an_error_code_is_printed_as_kvm_does() -> None:
    decoded = decode_pferr(0x200000007)
    assert decoded.title == "nested page fault of a user write"
    assert decoded.printed == "P|W|U|0x200000000"


@pytest.mark.parametrize("text", ["npf", "0x400", "400", "NPF"])
def test_an_svm_exit_is_a_name_or_a_hexadecimal_number(text: str) -> None:
    assert decode_exit(parse_exit(text, vmx=False), vmx=False).title == "SVM exit code 0x400: npf"


@pytest.mark.parametrize("text", ["EPT_VIOLATION", "48", "0x30"])
def test_a_vmx_exit_is_a_name_or_a_decimal_number(text: str) -> None:
    assert decode_exit(parse_exit(text, vmx=True), vmx=True).title == "VMX exit reason 48: EPT_VIOLATION"


def test_a_failed_entry_is_said() -> None:
    decoded = decode_exit(1 << 31 | 33, vmx=True)
    assert decoded.encoded() == decoded.word
    assert decoded.implies[0].startswith("The VM entry failed")


@pytest.mark.parametrize(("text", "vmx"), [("nonsense", False), ("EPT_VIOLATION", False), ("3f", True)])
def test_what_is_no_exit_is_refused(text: str, vmx: bool) -> None:
    with pytest.raises(WordError, match="must be an exit code:"):
        parse_exit(text, vmx=vmx)


def test_words_are_hexadecimal_with_or_without_a_prefix() -> None:
    assert parse_word("3713", 32, "role") == parse_word("0x3713", 32, "role") == 0x3713
    with pytest.raises(WordError, match="more than 32 bits"):
        parse_word("0x100000000", 32, "role")
