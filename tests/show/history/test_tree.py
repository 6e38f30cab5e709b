"""Both trees as lines: what is in them, what changed, what is shown once."""

from collections.abc import Iterator

import pytest
from show.recorded import RECORDINGS, recording

from shadowmmu.show.history.timeline import Timeline, recorded_timeline
from shadowmmu.show.history.tree import Node, guest_tree, shadow_tree
from shadowmmu.trace.recording import Recording


def below(nodes: tuple[Node, ...]) -> Iterator[Node]:
    for node in nodes:
        yield node
        yield from below(node.children)


def shadow(timeline: Timeline, op: int) -> tuple[Node, ...]:
    return shadow_tree(timeline, timeline.at(op), timeline.at(op - 1).state if op >= 0 else {})


def test_the_guests_tables_are_shown_with_the_pages_that_shadow_them():
    timeline = recorded_timeline(recording("b-unsync"))
    (root,) = guest_tree(timeline, timeline.at(1))
    assert root.label == "CR3 of vCPU 0: gpa 1000 level 4, shadowed by S1"
    labels = [node.label for node in below((root,))]
    assert "[0..3] 800067 .. 803067  P W U A D" in labels
    assert any(label.startswith("gpa 4000 level 1, shadowed by S") for label in labels)


def test_a_changed_entry_says_what_it_was_and_stands_alone():
    timeline = recorded_timeline(recording("b-unsync"))
    moment = next(moment for moment in timeline.moments if moment.changes)
    changed = [node for node in below(guest_tree(timeline, moment)) if node.changed]
    assert {node.name for node in changed} == {f"gpa {int(gpa, 16):x}" for gpa, _, _ in moment.changes}
    assert all("  was " in node.label for node in changed)


def test_new_pages_and_changed_sptes_are_marked():
    timeline = recorded_timeline(recording("b-unsync"))
    nodes = list(below(shadow(timeline, 1)))
    made = {node.name for node in nodes if node.label.endswith(", new")}
    assert made == timeline.at(1).state["sps"].keys() - timeline.at(0).state["sps"].keys()
    assert next(node for node in nodes if node.name == "S1[0]").changed
    assert not any(node.changed for node in below(shadow(timeline, 1)) if node.name == "S1[511]")


@pytest.mark.parametrize("path", sorted(RECORDINGS.rglob("*.jsonl"))[::11], ids=lambda path: path.stem)
def test_every_page_and_every_entry_is_in_the_tree(path):
    timeline = recorded_timeline(Recording.read(path))
    for op in range(-1, len(timeline.moments) - 1, 5):
        nodes = list(below(shadow(timeline, op)))
        names = {node.name for node in nodes}
        for name, page in timeline.at(op).state["sps"].items():
            assert name in names
            runs = [node for node in nodes if node.name.startswith(f"{name}[")]
            covered: set[int] = set()
            for node in runs:
                first, _, last = node.label[1 : node.label.index("]")].partition("..")
                covered.update(range(int(first), int(last or first) + 1))
            assert covered >= {int(index) for index in page["sptes"]}
        guest_tree(timeline, timeline.at(op))
