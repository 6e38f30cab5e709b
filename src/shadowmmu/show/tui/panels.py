"""The texts of the panels: what an op did, and the walk of an address."""

from __future__ import annotations

from rich.text import Text

from shadowmmu.show.history.timeline import Moment
from shadowmmu.show.history.walk import Translation, Walk
from shadowmmu.show.text.changes import change_lines
from shadowmmu.show.text.event_text import event_lines
from shadowmmu.show.text.outcome import outcome_details

__all__ = ["op_text", "walk_text"]


def op_text(moment: Moment) -> Text:
    """Return what an op did: result, changes, statistics, events."""
    text = Text()
    number = "" if moment.op < 0 else f"{moment.op} "
    text.append(f"{number}{moment.text}\n", style="bold")
    if moment.result:
        outcome = moment.result["outcome"]
        text.append(outcome, style="green" if outcome == "ok" else "yellow")
        text.append(f" {' '.join(outcome_details(moment.result))}\n")
    if moment.stale is not None:
        text.append(f"stale: {moment.stale}\n", style="yellow")
    if not moment.dumped:
        text.append("the state after it was not recorded\n", style="yellow")
    if moment.result:
        _append(text, "Changed", list(change_lines(moment.changes, moment.delta, moment.state["sps"])))
    counters = [
        f"{name if group == 'vm' else f'{group} {name}'} {value:+d}"
        for group, held in moment.stats.items()
        for name, value in held.items()
        if value
    ]
    _append(text, "Counted", counters)
    _append(text, "Events", list(event_lines(moment.events)))
    return text


def _append(text: Text, head: str, lines: list[str]) -> None:
    if lines:
        text.append(f"\n{head}\n", style="bold cyan")
        text.append("".join(f"{line}\n" for line in lines))


def walk_text(vcpu: int, address: int, both: Translation, *, l2: bool) -> Text:
    """Return both walks of an address, each entry with what it says."""
    text = Text()
    whose = f"L2 of vCPU {vcpu}" if l2 else f"vCPU {vcpu}"
    text.append(f"{address:#x} of {whose}\n", style="bold")
    _append_walk(text, "Through the guest's tables", both.guest)
    _append_walk(text, "Through KVM's tables", both.shadow)
    return text


def _append_walk(text: Text, head: str, walk: Walk) -> None:
    text.append(f"\n{head}\n", style="bold cyan")
    for step in walk.steps:
        text.append(f"level {step.level}  {step.table}[{step.index}] = {step.value}")
        if step.decoded is not None:
            text.append(f"  {step.decoded.short}", style="dim")
        text.append("\n")
    if walk.steps and walk.steps[-1].decoded is not None:
        text.append(
            "".join(f"    {sentence}\n" for sentence in walk.steps[-1].decoded.implies), style="italic"
        )
    text.append(f"{walk.end}\n", style="bold")
