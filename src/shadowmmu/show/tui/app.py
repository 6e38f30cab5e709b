"""The application: a list of ops, what the current one did, both trees, the walk of an address."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, VerticalScroll
from textual.widgets import Footer, Input, OptionList, Static, TabbedContent, TabPane, Tree
from textual.widgets.option_list import Option
from textual.widgets.tree import TreeNode

from shadowmmu.show.history.timeline import Moment, Timeline
from shadowmmu.show.history.tree import Node, guest_tree, shadow_tree
from shadowmmu.show.history.walk import translate

from .panels import op_text, walk_text
from .search import fired, matches, next_op

__all__ = ["HistoryApp"]

_PROMPTS = {
    "walk": "address of the guest to walk, 0x400000; @1 for vCPU 1, l2 for its L2",
    "search": "find ops with this text in their line or events",
    "break": "stop at ops that fire an event with this text (again: remove it)",
    "op": "number of an op",
}


class HistoryApp(App[None]):
    """Steps through a history; everything can be done by keys."""

    CSS = """
    #ops { width: 30; border: none; border-right: solid $primary; }
    #ops { text-wrap: nowrap; text-overflow: ellipsis; }
    #prompt { display: none; dock: bottom; }
    #prompt.asked { display: block; }
    #status { height: 1; background: $primary; color: $text; }
    #op, #walk { padding: 0 1; }
    TabPane { padding: 0; }
    """
    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("right,l", "step(1)", "Forward", priority=False),
        Binding("left,h", "step(-1)", "Back"),
        Binding("c", "continue(1)", "To breakpoint"),
        Binding("C", "continue(-1)", "Back to it", show=False),
        Binding("b", "ask('break')", "Break on event"),
        Binding("slash", "ask('search')", "Find"),
        Binding("n", "again(1)", "Next"),
        Binding("N", "again(-1)", "Previous", show=False),
        Binding("g", "ask('walk')", "Walk"),
        Binding("o", "ask('op')", "Op", show=False),
        Binding("1", "panel('op-pane')", show=False),
        Binding("2", "panel('guest-pane')", show=False),
        Binding("3", "panel('shadow-pane')", show=False),
        Binding("4", "panel('walk-pane')", show=False),
        Binding("escape", "leave_prompt", show=False),
        Binding("q", "quit", "Quit"),
    ]

    def __init__(self, timeline: Timeline, *, op: int = -1) -> None:
        super().__init__()
        self.timeline = timeline
        self.op = op
        self.breakpoints: list[str] = []
        self.searched = ""
        self.walked: tuple[int, int, bool] | None = None
        """vCPU, address, whether it is one of L2."""
        self._asked = ""

    def compose(self) -> ComposeResult:
        timeline = self.timeline
        yield Static(id="status")
        with Horizontal():
            yield OptionList(*(Option(_op_line(moment)) for moment in timeline.moments), id="ops")
            with TabbedContent(initial="op-pane"):
                with TabPane("1 Op", id="op-pane"):
                    yield VerticalScroll(Static(id="op"))
                with TabPane("2 Guest", id="guest-pane"):
                    yield Tree("the guest's tables", id="guest")
                with TabPane("3 KVM", id="shadow-pane"):
                    yield Tree("KVM's tables", id="shadow")
                with TabPane("4 Walk", id="walk-pane"):
                    yield VerticalScroll(Static(id="walk"))
        yield Input(id="prompt")
        yield Footer()

    def on_mount(self) -> None:
        self.title = self.timeline.name
        for tree in self.query(Tree):
            tree.show_root = False
            tree.guide_depth = 2
            tree.auto_expand = False
        self.query_one("#ops").focus()
        self.show_op(self.op)

    @property
    def moment(self) -> Moment:
        """The moment that is shown."""
        return self.timeline.at(self.op)

    # -- showing -------------------------------------------------------------------------------------------

    def show_op(self, op: int, said: str = "") -> None:
        """Show the moment after an op, with something said of it in the line at the top."""
        self.op = max(-1, min(op, len(self.timeline.moments) - 2))
        moment = self.moment
        before = self.timeline.moments[max(self.op, 0)].state if self.op >= 0 else {}
        position = (
            "before the first op" if self.op < 0 else f"op {self.op} of 0 to {len(self.timeline.moments) - 2}"
        )
        stops = f"  stops at {', '.join(self.breakpoints)}" if self.breakpoints else ""
        self.query_one("#status", Static).update(Text(f" {self.timeline.name}: {position}{stops}  {said}"))
        self.query_one("#op", Static).update(op_text(moment))
        _fill(self.query_one("#guest", Tree), guest_tree(self.timeline, moment))
        _fill(self.query_one("#shadow", Tree), shadow_tree(self.timeline, moment, before))
        self._show_walk()
        ops = self.query_one("#ops", OptionList)
        with self.prevent(OptionList.OptionHighlighted):
            ops.highlighted = self.op + 1

    def _show_walk(self) -> None:
        if self.walked is None:
            self.query_one("#walk", Static).update("Press g and give an address of the guest.")
            return
        vcpu, address, l2 = self.walked
        both = translate(self.timeline, self.moment, vcpu, address, l2=l2)
        self.query_one("#walk", Static).update(walk_text(vcpu, address, both, l2=l2))

    # -- actions -------------------------------------------------------------------------------------------

    def on_option_list_option_highlighted(self, event: OptionList.OptionHighlighted) -> None:
        if event.option_index != self.op + 1:
            self.show_op(event.option_index - 1)

    def action_step(self, steps: int) -> None:
        self.show_op(self.op + steps)

    def action_panel(self, pane: str) -> None:
        self.query_one(TabbedContent).active = pane

    def action_continue(self, direction: int) -> None:
        if not self.breakpoints:
            self.show_op(self.op, "no breakpoint is set: press b")
            return
        found = next_op(
            self.timeline.moments, self.op, direction, lambda m: fired(m, self.breakpoints) is not None
        )
        if found is None:
            self.show_op(self.op, "no further op fires such an event")
        else:
            self.show_op(found, f"stopped: {fired(self.timeline.at(found), self.breakpoints)}")

    def action_again(self, direction: int) -> None:
        if not self.searched:
            self.show_op(self.op, "nothing was searched for: press /")
            return
        found = next_op(self.timeline.moments, self.op, direction, lambda m: matches(m, self.searched))
        if found is None:
            self.show_op(self.op, f"no further op has {self.searched!r}")
        else:
            self.show_op(found, f"found {self.searched!r}")

    def action_ask(self, what: str) -> None:
        self._asked = what
        prompt = self.query_one("#prompt", Input)
        prompt.placeholder = _PROMPTS[what]
        prompt.value = ""
        prompt.add_class("asked")
        prompt.focus()

    def action_leave_prompt(self) -> None:
        self.query_one("#prompt", Input).remove_class("asked")
        self.query_one("#ops").focus()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        text = event.value.strip()
        self.action_leave_prompt()
        if not text:
            return
        if self._asked == "search":
            self.searched = text
            self.action_again(1)
        elif self._asked == "break":
            self._toggle_breakpoint(text)
        elif self._asked == "op":
            number = int(text) if text.lstrip("-").isdecimal() else None
            self.show_op(
                self.op if number is None else number,
                "" if number is not None else f"the op must be a number, not {text!r}",
            )
        else:
            self._walk(text.split())

    def _toggle_breakpoint(self, text: str) -> None:
        if text in self.breakpoints:
            self.breakpoints.remove(text)
        else:
            self.breakpoints.append(text)
        self.show_op(self.op, "c continues to the next")

    def _walk(self, words: Sequence[str]) -> None:
        """Show the walk of `ADDRESS [@VCPU] [l2]`."""
        vcpu, address, l2 = 0, None, False
        for word in words:
            if word.startswith("@") and word[1:].isdecimal():
                vcpu = int(word[1:])
            elif word == "l2":
                l2 = True
            else:
                try:
                    address = int(word, 16)
                except ValueError:
                    address = None
        registers = self.moment.registers.get(vcpu)
        if (
            address is None
            or not 0 <= address < 1 << 64
            or registers is None
            or (l2 and registers.ncr3 is None)
        ):
            self.show_op(self.op, "write a hexadecimal address, and @N for a vCPU that there is")
            return
        self.walked = vcpu, address, l2
        self.action_panel("walk-pane")
        self.show_op(self.op)


def _op_line(moment: Moment) -> Text:
    number = "     " if moment.op < 0 else f"{moment.op:4} "
    outcome = moment.result.get("outcome", "ok")
    return Text(
        f"{number}{moment.text}", style="" if outcome == "ok" else "yellow", no_wrap=True, overflow="ellipsis"
    )


def _fill(tree: Tree[Node], nodes: Sequence[Node]) -> None:
    """Show nodes; those below which something changed are open, and all if there are few."""
    tree.clear()
    few = sum(map(_lines, nodes)) <= _FEW
    for node in nodes:
        _add(tree.root, node, few=few)
    tree.root.expand()


_FEW = 200


def _lines(node: Node) -> int:
    return 1 + sum(map(_lines, node.children))


def _add(parent: TreeNode[Node], node: Node, *, few: bool) -> None:
    """Add a line and what is below it; an entry and the table that it leads to are one line."""
    label, changed, children = node.label, node.changed, node.children
    if len(children) == 1 and label.startswith("["):
        (table,) = children
        label, changed, children = f"{label} {table.label}", changed or table.changed, table.children
    text = Text(f"{'* ' if changed else ''}{label}", style="bold yellow" if changed else "")
    if not children:
        parent.add_leaf(text, node)
        return
    added = parent.add(text, node, expand=few or node.changed_below)
    for child in children:
        _add(added, child, few=few)
