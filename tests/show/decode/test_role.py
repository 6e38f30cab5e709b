"""Roles decoded: exact against the roles of real KVM's and the model's pages."""

import pytest
from show.recorded import last_states

from shadowmmu.kvm.design.design import design_of
from shadowmmu.kvm.pages.role import kvm_calc_cpu_role, shadow_root_role
from shadowmmu.kvm.tracepoints.role_layout import FOUR_ACCESS_BITS, layout_of
from shadowmmu.show.decode import decode_cpu_role, decode_role, role_text
from shadowmmu.x86.bits import (
    CR0_PG,
    CR0_WP,
    CR4_LA57,
    CR4_PAE,
    CR4_PSE,
    CR4_SMAP,
    CR4_SMEP,
    EFER_LMA,
    EFER_NX,
)


def test_the_fields_of_every_recorded_page_say_what_the_recording_says() -> None:
    pages = 0
    for recording, state in last_states():
        layout = layout_of(design_of(recording.header["kernel"]))
        for page in state["sps"].values():
            decoded = decode_role(int(page["role"], 16), layout)
            assert decoded.encoded() == decoded.word
            assert decoded.value_of("level") == page["level"]
            assert decoded.value_of("quadrant") == page.get("quadrant", 0)
            assert decoded.value_of("direct") == page.get("direct", 0)
            assert decoded.value_of("has_4_byte_gpte") == page.get("has_4_byte_gpte", 0)
            assert decoded.value_of("invalid") == page.get("invalid", 0)
            assert page["access"] in decoded.printed
            assert all(field.name != "unused" for field in decoded.fields)
            pages += 1
    assert pages > 500


def test_every_recorded_cpu_role_is_made_of_known_bits() -> None:
    for recording, state in last_states():
        layout = layout_of(design_of(recording.header["kernel"]))
        for vcpu in state["vcpus"].values():
            decoded = decode_cpu_role(int(vcpu["cpu_role"], 16), layout)
            assert decoded.encoded() == decoded.word
            assert all(field.name != "unused" for field in decoded.fields)


@pytest.mark.parametrize("cr0", [0, CR0_PG, CR0_PG | CR0_WP])
@pytest.mark.parametrize("cr4", [0, CR4_PSE, CR4_PAE, CR4_PAE | CR4_SMEP, CR4_PAE | CR4_LA57 | CR4_SMAP])
@pytest.mark.parametrize("efer", [0, EFER_NX, EFER_NX | EFER_LMA])
def test_roles_that_the_model_makes_come_back_from_their_fields(cr0: int, cr4: int, efer: int) -> None:
    base, extended = kvm_calc_cpu_role(cr0, cr4, efer)
    cpu_role = decode_cpu_role(extended << 32 | base)
    assert cpu_role.encoded() == extended << 32 | base
    assert cpu_role.value_of("direct") == (not cr0 & CR0_PG)
    root = decode_role(shadow_root_role(base))
    assert root.encoded() == shadow_root_role(base)
    assert root.value_of("cr0_wp") == bool(cr0 & CR0_PG and cr0 & CR0_WP)


def test_a_role_is_printed_as_kvm_mmu_get_page_prints_it() -> None:
    assert role_text(0x3731) == "l1 4-byte q1 wux nxe ad"
    assert role_text(0x6F31, FOUR_ACCESS_BITS) == "l1 4-byte q1 rwux nxe ad"


def test_a_role_of_7_3_has_smep_and_the_right_to_read() -> None:
    decoded = decode_role(0x106F04, FOUR_ACCESS_BITS)
    assert (decoded.value_of("cr4_smep"), decoded.value_of("access"), decoded.value_of("cr0_wp")) == (
        1,
        15,
        1,
    )
    assert "CR4.SMEP" in " ".join(decoded.implies)
    assert decode_cpu_role(0xD100106F04, FOUR_ACCESS_BITS).value_of("has_pferr_fetch") == 1
    assert role_text(0x11F84) == "l4 8-byte q0 direct wux invalid nxe !ad"


def test_the_root_role_of_a_32_bit_guest_is_no_page() -> None:
    decoded = decode_role(0x3713)
    assert decoded.title.startswith("root role of a 32-bit guest")
    assert "No shadow page has it" in decoded.implies[0]


def test_a_quadrant_is_named_with_their_number() -> None:
    (quadrant,) = (field for field in decode_role(0x3772).fields if field.name == "quadrant")
    assert quadrant.meaning == "part 3 of 4 of its guest table"


def test_bits_without_a_meaning_are_shown() -> None:
    (unused,) = (field for field in decode_role(0x106F04).fields if field.name == "unused")
    assert unused.bits == "20"
