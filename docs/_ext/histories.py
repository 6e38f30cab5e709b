"""The pages of `shadowmmu show` that are part of the documentation: made with it, beside its own pages."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from sphinx.application import Sphinx

ROOT = Path(__file__).parents[2]
FOLDER = "histories"
"""Where they are below the built documentation."""


@dataclass(frozen=True, slots=True)
class Place:
    """An op to look at."""

    op: int
    says: str
    """What is to be seen there, as Markdown."""
    shows: str
    """A tracepoint or a statistic that the op has, by which the tests know that it is the right one."""
    link: str = ""
    """The rest of the page's address, `gva=0x400000`."""


@dataclass(frozen=True, slots=True)
class History:
    """A page: of a recording of real KVM."""

    name: str
    title: str
    places: tuple[Place, ...]

    @property
    def recording(self) -> Path:
        """The recording."""
        return ROOT / "tests" / "conformance" / "recordings" / f"{self.name}.jsonl"


HISTORIES = (
    History(
        "e-nonpae",
        "A 32-bit guest",
        (
            Place(
                1,
                "A guest table of 1,024 entries of 4 bytes needs two shadow pages of 512 entries of 8, and "
                "the topmost table four: the *parts* (quadrants) in KVM's tables.",
                "kvm_mmu_get_page",
                "gva=0x400000",
            ),
            Place(
                8,
                "The guest writes an entry of its own leaf table. KVM lets it, and marks both parts unsync.",
                "kvm_mmu_unsync_page",
                "gva=0x401000",
            ),
            Place(
                9,
                "The guest has not flushed: KVM's entry still leads where the guest's led before.",
                "ok",
                "gva=0x401000",
            ),
            Place(10, "INVLPG: the SPTE is removed. *Why* names the function.", "pages_4k", "gva=0x401000"),
            Place(
                18,
                "The third write in a row to an upper table: KVM takes it for flooding, and zaps its pages.",
                "mmu_flooded",
            ),
        ),
    ),
    History(
        "n7-ncr3",
        "A guest of a guest",
        (
            Place(
                1,
                "L1 enters its guest L2 for the first time. KVM shadows the nested tables that L1 made; the "
                "walk is one through them (*L2 of vCPU 0*).",
                "kvm_nested_vmenter",
                "gva=0x800000&vcpu=0.l2",
            ),
            Place(
                3,
                "L1 gives L2 another root, which shares tables with the first: their shadow pages are found "
                "again.",
                "kvm_mmu_get_page",
                "gva=0x800000&vcpu=0.l2",
            ),
            Place(
                10,
                "L1 writes an entry of a nested table: it gets out of sync, as a guest's own table would.",
                "kvm_mmu_unsync_page",
                "gva=0x800000&vcpu=0.l2",
            ),
            Place(
                11,
                "The next entry of L2 syncs it: that is L2's flush.",
                "kvm_mmu_sync_page",
                "gva=0x800000&vcpu=0.l2",
            ),
        ),
    ),
    History(
        "i-dirty-tdp1-eagerY",
        "Eager splits",
        (
            Place(
                3,
                "Before dirty logging three huge pages of 2 MiB are mapped by one SPTE each.",
                "pages_2m",
                "gva=0x40000000",
            ),
            Place(
                4,
                "Logging starts: each is split at once into 512 SPTEs, all read-only.",
                "kvm_mmu_split_huge_page",
                "gva=0x40000000",
            ),
            Place(
                5,
                "So the first write of a page is a fast page fault without mmu_lock, not a split under it.",
                "fast_page_fault",
                "gva=0x40000000",
            ),
            Place(
                10, "The dirty log is read: what was written is protected again.", "kvm_tdp_mmu_spte_changed"
            ),
            Place(17, "Logging ends: the small pages are zapped, so that huge ones can return.", "pages_4k"),
        ),
    ),
)


def _make(app: Sphinx, error: Exception | None) -> None:
    """Write the pages, which carry the reasons of the model; all at once, each in a process of its own."""
    if error is not None or app.builder.format != "html":
        return
    folder = Path(app.outdir) / FOLDER
    folder.mkdir(exist_ok=True)
    words = [sys.executable, "-m", "shadowmmu", "show"]
    making = [
        subprocess.Popen(
            [*words, history.recording, "-o", folder / f"{history.name}.html"], stdout=subprocess.PIPE
        )
        for history in HISTORIES
    ]
    failed = [process.args for process in making if process.wait() != 0]
    if failed:
        raise RuntimeError(f"no page was made by {failed}")


def setup(app: Sphinx) -> dict[str, bool]:
    """Enter the handler."""
    app.connect("build-finished", _make)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
