"""Reasons of recordings of real KVM: the model's, where it does the same."""

from dataclasses import replace

from show.recorded import recording

from shadowmmu.show.reasons.history import UNEXPLAINED, reasons_of_recording


def test_a_recording_that_the_model_reproduces_is_explained():
    found = reasons_of_recording(recording("b-unsync"))
    assert found.unexplained == []
    assert found.timeline.recorded
    assert "prefetch_invalid_gpte" in {change.mechanism.function for change in found.changes}


def test_an_op_that_the_model_does_otherwise_has_no_reasons():
    read = recording("b-unsync")
    number = next(n for n, row in enumerate(read.rows) if row["op"] == 2)
    row = read.rows[number]
    changed = {**row, "stats": {**row["stats"], "vm": {"mmu_unsync": 77}}}
    rows = [*read.rows[:number], changed, *read.rows[number + 1 :]]
    found = reasons_of_recording(replace(read, rows=rows))
    assert found.unexplained == [2]
    assert {change.mechanism for change in found.changes if change.op == 2} <= {UNEXPLAINED}
