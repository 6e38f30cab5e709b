"""The application operated by keys, at the size of a small terminal."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from show.recorded import recording

from shadowmmu.show.history.timeline import recorded_timeline

pytest.importorskip("textual", reason="needs Textual: pip install 'shadowmmu[tui]'")
from shadowmmu.show.tui.app import HistoryApp

SIZE = 80, 24


def operate(name: str, keys: Callable[[HistoryApp, Callable[..., Awaitable[None]]], Awaitable[None]]) -> None:
    """Run the application on a recording, and `keys` on it."""

    async def run() -> None:
        app = HistoryApp(recorded_timeline(recording(name)))
        async with app.run_test(size=SIZE) as pilot:

            async def press(*names: str) -> None:
                await pilot.press(*names)
                await pilot.pause()

            await press()
            await keys(app, press)

    asyncio.run(run())


def shown(app: HistoryApp, name: str) -> str:
    return str(app.query_one(f"#{name}").render())


def test_steps_lead_forward_and_back_and_end_at_the_ends():
    async def keys(app, press):
        await press("left")
        assert app.op == -1
        await press("right", "right", "l", "h")
        assert app.op == 1
        assert "op 1 of 0 to 24" in shown(app, "status")
        assert "1 read 0x401000" in shown(app, "op")
        await press("o", *"24", "enter", "right")
        assert app.op == 24

    operate("b-unsync", keys)


def test_the_list_of_ops_leads_to_them():
    async def keys(app, press):
        await press("down", "down", "down")
        assert app.op == 2
        await press("end")
        assert app.op == 24

    operate("b-unsync", keys)


def test_it_stops_at_ops_that_fire_an_event():
    async def keys(app, press):
        await press("c")
        assert "no breakpoint is set" in shown(app, "status")
        await press("b", *"unsync_page", "enter", "c")
        assert any(event["e"] == "kvm_mmu_unsync_page" for event in app.moment.events)
        assert "stopped: kvm_mmu_unsync_page" in shown(app, "status")
        stopped = app.op
        await press("o", *"24", "enter")
        await press("C")
        assert app.op >= stopped
        await press("b", *"unsync_page", "enter")
        assert app.breakpoints == []

    operate("b-unsync", keys)


def test_ops_are_searched():
    async def keys(app, press):
        await press("slash", *"invlpg", "enter")
        assert "invlpg" in app.moment.text
        first = app.op
        await press("n")
        await press("N")
        assert app.op == first
        await press("slash", *"zzz", "enter")
        assert "no further op has 'zzz'" in shown(app, "status")

    operate("b-unsync", keys)


def test_an_address_is_walked_at_every_op():
    async def keys(app, press):
        await press("right", "right", "g", *"0x400000", "enter")
        text = shown(app, "walk")
        assert "level 1  gpa 4000[0] = 800067" in text
        assert "mapped by S" in text
        await press("left", "left")
        assert "the vCPU has no root" in shown(app, "walk")
        await press("g", *"nonsense", "enter")
        assert "write a hexadecimal address" in shown(app, "status")

    operate("b-unsync", keys)


def test_an_address_of_l2_is_walked():
    async def keys(app, press):
        await press("o", *"20", "enter", "g", *"f010d000 l2", "enter")
        assert "L2 of vCPU 0" in shown(app, "walk")
        assert "leads to gpa 0xf010d000" in shown(app, "walk")

    operate("n7-ncr3", keys)


def test_the_trees_show_what_changed_open():
    async def keys(app, press):
        await press("right", "right", "3")
        tree = app.query_one("#shadow")
        labels = []

        def collect(node):
            labels.append(str(node.label))
            if node.is_expanded:
                for child in node.children:
                    collect(child)

        collect(tree.root)
        assert any(label.startswith("* [0] S") for label in labels)
        assert any(label.endswith(", new") for label in labels)

    operate("b-unsync", keys)


def test_escape_leaves_a_prompt_and_q_the_application():
    async def keys(app, press):
        await press("g", "4", "escape")
        assert app.walked is None
        await press("q")
        assert not app.is_running

    operate("b-unsync", keys)
