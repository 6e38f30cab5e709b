"""Turns a recording back into what a player would have reported, so that it can be recorded again."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shadowmmu.guest.play.player import OpResult
from shadowmmu.kvm.bits import TRANSLATION_VALID
from shadowmmu.trace.recorded_events import events_of
from shadowmmu.trace.recording import Recording, replay

CONFORMANCE = Path(__file__).parents[1] / "conformance"


def _translation(word: str) -> int:
    """A shadowed translation as the model has it; a recording does not tell those of gfn 0 from none."""
    return int(word, 16) | TRANSLATION_VALID


FIXTURES = [
    path
    for path in sorted((CONFORMANCE / "recordings").glob("*.jsonl"))
    if '"kvm_amd.npt":"N"' in path.read_text().partition("\n")[0]
]
"""Those of shadow paging; tests/cli/test_run.py records others again, with the real player."""
FEW = ("e-nonpae", "f-pae", "k-notifier", "x-smp-stale")


def number(text: str) -> int:
    units = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
    return int(text[:-1], 0) * units[text[-1]] if text[-1] in units else int(text, 0)


class Machine:
    """Invents host addresses for a recording's names; `areas` and `played` are what a player offers."""

    def __init__(self, recording: Recording) -> None:
        self.recording = recording
        self.areas: dict[int, tuple[int, int, int]] = {}
        self.pages: dict[str, int] = {}
        self.free: list[int] = []
        self.top = 0x10_0000_0000
        for entry in recording.header["setup"]:
            if entry["setup"] == "slot":
                self.area(entry["id"], int(entry["gpa"], 16), int(entry["size"], 16))

    def area(self, slot: int, gpa: int, size: int) -> None:
        self.areas[slot] = (0x7000_0000_0000 + (slot << 38) + gpa, size, gpa)

    def played(self) -> Iterator[OpResult]:
        dying: list[str] = []
        for row, state in replay(self.recording):
            for name in dying:
                self.free.append(self.pages.pop(name))
            words = row["do"].split()
            if words[0] == "slot" and row["result"]["outcome"] == "ok":
                self.area(int(words[1]), number(words[2]), number(words[3]))
            for name in sorted(state["sps"], key=lambda name: int(name[1:])):
                if name not in self.pages:
                    self.pages[name] = self.free.pop(0) if self.free else self.top
                    self.top += 0x1000 * (self.pages[name] == self.top)
            dying = [name for name in self.pages if name not in state["sps"]]
            yield OpResult(
                row["op"],
                row["do"],
                row.get("vcpu", 0),
                row.get("result", {}),
                row.get("stats", {}),
                row.get("gptes", []),
                [event for entry in row.get("events", []) for event in events_of(entry, self)],
                self.state(state) if "delta" in row else None,
            )

    # -- names back to addresses

    def sptep(self, name: str) -> int:
        if name == "null":
            return 0
        match = re.fullmatch(r"(S\d+)\[(\d+)\]", name)
        assert match, name
        return self.pages[match[1]] + 8 * int(match[2])

    def pfn(self, name: str) -> int:
        if name == "noslot":
            return 1 << 63
        if name == "pfn?3735":  # where an entry without an address leads, as the recorded host names it
            return 0
        if name == "zero":
            return 0
        gfn = int(name.removeprefix("gpa:"), 16) >> 12
        if gfn >> 36:  # above what the host's processor can address: to a place of its own
            gfn = (0x10 + (gfn >> 36) << 28) + (gfn & 0xFFF_FFFF)
        return 0x400_0000 + gfn

    def spte(self, name: str) -> int:
        if name in ("none", "none63"):
            return 1 << 63 if name == "none63" else 0
        if name == "frozen":
            return 1 << 63 | 0x5A0
        if name.startswith("mmio:"):
            return int(name[5:], 16)
        target, rest = name.split("|")
        where = self.pages[target] if target in self.pages else self.pfn(target) << 12
        return where | int(rest, 16)

    def hva(self, name: str) -> int:
        gpa = int(name.removeprefix("gpa:"), 16)
        return next(hva + gpa - at for hva, size, at in self.areas.values() if at <= gpa <= at + size)

    # -- named state back to a raw one

    def root(self, name: str) -> int:
        unnamed = {"invalid": (1 << 64) - 1, "?3735000": 0}
        return unnamed[name] if name in unnamed else self.pages.get(name, 0x5000)

    def state(self, state: dict[str, Any]) -> dict[str, Any]:
        gfns = {slot: int(gfn, 16) for slot, (gfn, _, _) in state["slots"].items()}
        sps = state["sps"]
        roots = [  # the order in which the lab looks for roots that are on no list any more
            root
            for vcpu in state["vcpus"].values()
            for root in [*(name for _, name in vcpu["prev"]), vcpu["root"], *vcpu.get("pae_root", ())]
        ]
        off_list = [name for name in (root.split("|")[0] for root in roots) if name in sps]
        listed = list(dict.fromkeys(state["order"] + off_list))
        assert set(listed) == set(sps)
        leaves = [
            name
            for sp in sps.values()
            for name in sp["sptes"].values()
            if re.match("gpa:|zero", name) and (sp["level"] == 1 or int(name.split("|")[1], 16) & 0x80)
        ]
        counters = ("unsync", "unsync_children", "gen", "root_count", "flood", "nxd", "none63")
        unused = [(0, (1 << 64) - 1)] * 3
        pfns = {self.pfn(name.split("|")[0]): name.split("|")[0] for name in leaves}

        def keyed(part: str) -> list[tuple[list[int], Any]]:
            split = [(key.split("/"), value) for key, value in state[part].items()]
            numbered = [
                ([int(slot), *map(int, level), int(gfn, 16)], value) for (slot, *level, gfn), value in split
            ]
            return sorted(numbered, key=lambda item: (gfns[str(item[0][0])], item[0][1:]))

        return {
            **{key: state["kvm"][key] for key in ("used", "max", "gen", "indirect")},
            "slots_gen": int(state["kvm"]["slots_gen"], 16),
            "vcpus": [
                {
                    "id": int(number),
                    "root": self.root(vcpu["root"]),
                    "pgd": 0 if vcpu["pgd"] == "-" else int(vcpu["pgd"], 16),
                    "cpu_role": divmod(int(vcpu["cpu_role"], 16), 1 << 32)[::-1],
                    "root_role": int(vcpu["root_role"], 16),
                    "prev": [*((int(pgd, 16), self.root(root)) for pgd, root in vcpu["prev"]), *unused][:3],
                    **{key: list(map(self.spte, vcpu[key])) for key in ("pae_root",) if key in vcpu},
                    **({"pml4_root": int(vcpu["root"] == "pml4_root")} if "pae_root" in vcpu else {}),
                }
                for number, vcpu in state["vcpus"].items()
            ],
            "sps": [
                {
                    "hpa": self.pages[name],
                    "gfn": int(sp["gfn"], 16),
                    "role": int(sp["role"], 16),
                    **{key: sp[key] for key in counters},
                    "off_list": bool(sp.get("off_list")),
                    "tdp": bool(sp.get("tdp")),
                    "parents": [self.sptep(parent) for parent in sp["parents"]],
                    "sptes": {int(index): self.spte(spte) for index, spte in sp["sptes"].items()},
                    "translations": {int(i): _translation(word) for i, word in sp["st"].items()}
                    if "st" in sp
                    else None,
                }
                for name, sp in ((name, sps[name]) for name in listed)
            ],
            "slots": [
                {"id": int(slot), "gfn": gfns[slot], "npages": pages, "flags": flags}
                for slot, (_, pages, flags) in sorted(state["slots"].items(), key=lambda item: gfns[item[0]])
            ],
            "rmap": [(*key, [self.sptep(spte) for spte in sptes]) for key, sptes in keyed("rmap")],
            "lpage": [(*key, count) for key, count in keyed("lpage")],
            "wtrack": [(*key, count) for key, count in keyed("wtrack")],
            "pfns": {pfn: name if name == "zero" else int(name[4:], 16) for pfn, name in pfns.items()},
        }  # fmt: skip


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "recording_path" in metafunc.fixturenames:
        metafunc.parametrize("recording_path", FIXTURES, ids=lambda path: path.stem)
    if "fixture_path" in metafunc.fixturenames:
        few = [path for path in FIXTURES if path.stem in FEW]
        metafunc.parametrize("fixture_path", few, ids=lambda path: path.stem)


@pytest.fixture
def machine_of():
    """Recording -> Machine."""
    return Machine
