"""Ops are found by their text and events; breakpoints stop at events."""

from show.recorded import recording

from shadowmmu.show.history.timeline import recorded_timeline
from shadowmmu.show.tui.search import fired, matches, next_op


def test_an_op_is_found_by_its_line_result_and_events():
    moments = recorded_timeline(recording("b-unsync")).moments
    assert matches(moments[2], "READ 0x401")
    assert matches(moments[2], "kvm_mmu_set_spte")
    assert not matches(moments[2], "nonsense")


def test_a_breakpoint_names_the_event_that_fired():
    moments = recorded_timeline(recording("b-unsync")).moments
    assert fired(moments[2], ["get_page"]).startswith("kvm_mmu_get_page")
    assert fired(moments[0], ["get_page"]) is None
    assert fired(moments[2], []) is None


def test_the_next_op_is_looked_for_in_both_directions():
    moments = recorded_timeline(recording("b-unsync")).moments
    unsync = [m.op for m in moments if fired(m, ["unsync_page"])]
    assert next_op(moments, -1, 1, lambda m: fired(m, ["unsync_page"]) is not None) == unsync[0]
    assert next_op(moments, 24, -1, lambda m: fired(m, ["unsync_page"]) is not None) == unsync[-1]
    assert next_op(moments, 24, 1, lambda m: True) is None
    assert next_op(moments, -1, -1, lambda m: True) is None
