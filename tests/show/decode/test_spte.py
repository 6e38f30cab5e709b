"""SPTEs decoded: every SPTE of every recording, and what each kind implies."""

import pytest
from hypothesis import given, strategies as st
from show.recorded import last_states

from shadowmmu.guest.scenario.host_processor import HostProcessor
from shadowmmu.kvm.bits import FROZEN_BITS
from shadowmmu.kvm.design.design import design_of
from shadowmmu.show.decode import Decoded, WordError, decode_ept, decode_spte, parse_spte
from shadowmmu.x86.bits import MASK64


def spte(text: str, level: int | None = None) -> Decoded:
    return decode_spte(parse_spte(text), level=level)


def test_every_recorded_spte_is_one_that_kvm_makes() -> None:
    kinds = set()
    for recording, state in last_states():
        design = design_of(recording.header["kernel"])
        decode = decode_ept if recording.header["params"].get("kvm_intel.ept") == "Y" else decode_spte
        for page in state["sps"].values():
            for text in page["sptes"].values():
                decoded = decode(parse_spte(text), level=page["level"], design=design, host=HostProcessor())
                assert decoded.encoded() == decoded.word
                assert all(field.name != "unused" for field in decoded.fields), text
                assert "no SPTE of KVM" not in decoded.title, text
                assert not any("never makes" in sentence for sentence in decoded.implies), text
                assert text.startswith("S") == decoded.title.startswith("non-leaf"), text
                kinds.add(decoded.title.split(" ")[0])
    assert kinds == {"leaf", "access-tracked", "non-leaf", "MMIO"}


@given(st.integers(0, MASK64))
def test_any_word_comes_back_from_its_fields(word: int) -> None:
    for decode in (decode_spte, decode_ept):
        decoded = decode(parse_spte(f"{word:x}"))
        assert decoded.encoded() == decoded.word == word


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a65", "Read-only because MMU-writable (bit 10) is clear: write-protected by KVM"),
        ("a65", "Dirty is left from when it was writable"),
        ("e65", "A write is fixed without mmu_lock by fast_page_fault"),
        ("825", "Read-only because host-writable (bit 9) is clear"),
        ("e67", "Writable: writes cause no exit."),
        ("e47", "Nobody accessed it yet: it was prefetched"),
        ("|e63", "User code faults"),
        ("gpa:1000|8000000000000e67", "Fetches fault"),
        ("a67", "Writable although MMU-writable is clear: KVM never makes such an SPTE."),
    ],
)
def test_a_leaf_says_what_the_next_access_meets(text: str, sentence: str) -> None:
    assert any(held.startswith(sentence) for held in spte(text).implies)


def test_an_mmio_spte_tells_its_frame_and_generation() -> None:
    decoded = spte("mmio:80000d0001017")
    assert decoded.title == "MMIO SPTE of gfn 0xd0001, memslot generation 0x2"
    host = HostProcessor(maxphyaddr=36)
    assert decode_spte(parse_spte("mmio:80000d0001017"), host=host).encoded() == 0x80000D0001017


@pytest.mark.parametrize(("decode", "word"), [(decode_spte, 0x80F80D0000027), (decode_ept, 0xF80D0000026)])
def test_an_mmio_spte_of_a_host_vulnerable_to_l1tf_has_its_frame_in_two_parts(decode, word) -> None:
    decoded = decode(parse_spte(f"{word:#x}"), host=HostProcessor(l1tf=44))
    assert decoded.title == "MMIO SPTE of gfn 0xd0000, memslot generation 0x4"
    assert decoded.encoded() == word
    assert {"frame, low", "L1TF", "frame, high"} <= {field.name for field in decoded.fields}
    assert any("vulnerable to L1TF" in sentence for sentence in decoded.implies)


def test_ept_mmio_is_an_entry_that_can_be_written_but_not_read() -> None:
    decoded = decode_ept(parse_spte("0x1234006"))
    assert decoded.title == "MMIO SPTE of gfn 0x1234, memslot generation 0x0"


def test_a_frozen_spte_is_that_of_its_kernel() -> None:
    assert spte("frozen").word == 1 << 63 | FROZEN_BITS
    old = decode_spte(parse_spte("frozen"), design=design_of("6.1.176"))
    assert old.word == FROZEN_BITS
    assert old.title == "frozen SPTE"


def test_an_entry_of_a_pae_root_has_no_rights() -> None:
    assert spte("S1|1").title.startswith("entry of a PAE root")
    assert spte("S1|21").title.startswith("entry of a PAE root")
    assert spte("S1|801").title.startswith("entry of a PAE root")


def test_an_access_tracked_ept_leaf_gets_its_rights_back_without_the_lock() -> None:
    decoded = decode_ept(parse_spte("8750000000000870"))  # R and X aside, host- and MMU-writable, no A/D bits
    assert decoded.title.startswith("access-tracked leaf SPTE")
    assert decoded.value_of("saved R") and decoded.value_of("saved X")
    assert "without mmu_lock" in decoded.implies[0]


def test_a_link_is_told_from_a_leaf_without_a_level() -> None:
    assert spte("827").title.startswith("non-leaf SPTE")
    assert spte("827", level=1).title.startswith("leaf SPTE")
    assert spte("ee7").title.startswith("leaf SPTE: maps a huge page")
    assert spte("ee7", level=2).title.endswith("maps 2 MiB")


@pytest.mark.parametrize("text", ["", "x", "S7|", "|zz", "0x" + "1" * 17, "gpa:|827"])
def test_what_is_no_spte_is_refused_with_a_remedy(text: str) -> None:
    with pytest.raises(WordError, match=r"must be hexadecimal|has 64"):
        parse_spte(text)
