"""Mail 003, June 2010: how far to prefetch, and from where."""

from __future__ import annotations

from ..configuration import Configuration
from ..study import Alternative, Case, Results, Study
from ..words import least, ratio

_BASE = Configuration(memory="256M")
_WINDOWS = ("8_aligned", "off", "16_aligned", "16_from_fault")


def _window_verdict(results: Results) -> str:
    def faults(case: str, window: str) -> float:
        return results.value(case, window, "faults")

    backward = {window: faults("backward", window) for window in _WINDOWS}
    best = least(backward)
    used = {
        window: 1 - results.value("random", window, "unused") / results.value("random", window, "sptes_made")
        for window in _WINDOWS
    }
    return (
        f"Scanned forwards, a window of 16 from the fault on takes "
        f"{faults('forward', '16_from_fault'):,.0f} faults and "
        f"one aligned to 16 takes {faults('forward', '16_aligned'):,.0f}; scanned backwards the first takes "
        f"{backward['16_from_fault']:,.0f}, the second {backward['16_aligned']:,.0f}: {best} is best there, "
        f"{ratio(backward['off'], backward[best])} fewer than without prefetching, and Avi Kivity's advice "
        f"to align is right. "
        f"The price is paid by random reads: of the SPTEs made, {used['8_aligned']:.0%} are used with "
        f"8_aligned and "
        f"{used['16_aligned']:.0%} with 16_aligned."
    )


WINDOW = Study(
    name="003-prefetch-window",
    question="How many neighbours should a shadow page fault map, and starting where?",
    about=(
        "Xiao Guangrong's patch of June 2010 maps the 16 entries after the fault. Avi Kivity answers: align "
        "the window to "
        "16, which helps memory that is scanned backwards. What was merged is a window of 8, aligned."
    ),
    cases=(
        Case("forward", "sequential", {"pages": 4096}),
        Case("backward", "backward", {"pages": 4096}),
        Case("stride 4", "strided", {"pages": 4096, "stride": 4}),
        Case("random", "random", {"pages": 16384, "reads": 4000}),
        Case("zipf", "zipf", {"pages": 16384, "reads": 20000}),
    ),
    alternatives=tuple(Alternative(one, _BASE.with_design(prefetch_window=one)) for one in _WINDOWS),
    columns=("faults", "sptes_made", "unused", "seconds"),
    plotted="faults",
    verdict=_window_verdict,
)

STUDIES = (WINDOW,)
