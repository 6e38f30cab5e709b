"""What a kernel is known to do wrong is named where a check finds it."""

from pathlib import Path

import pytest

from shadowmmu.check.known import unsafe_values
from shadowmmu.check.random.fuzz import check_lines
from shadowmmu.kvm.design.switches import PROFILES

HOLE = Path(__file__).parents[2] / "scenarios" / "mails" / "001-nested-hole.txt"
"""Eager splits without a flush, for a nested guest."""


LATE = sorted((Path(__file__).parents[2] / "scenarios" / "reports").glob("clear-log-*.txt"))
"""KVM_CLEAR_DIRTY_LOG flushes after mmu_lock is released, in guests of all kinds."""


@pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.kernel)
@pytest.mark.parametrize("path", LATE, ids=lambda path: path.stem)
def test_clearing_the_log_of_a_huge_page_flushes_too_late(path, profile) -> None:
    lines = path.read_text().splitlines()
    safe = "clear_log_flushes_under_lock=yes"
    assert check_lines(lines, kernel=profile.kernel) is not None
    assert check_lines([f"design {safe}", *lines], kernel=profile.kernel) is None


def test_todays_kernel_splits_without_a_flush() -> None:
    assert ("split_flush", "if_not_identical", "stable") in list(unsafe_values("7.3.4", {}))
    assert "split_flush" not in [switch for switch, _, _ in unsafe_values("6.12.111", {})]
    safe = unsafe_values("7.3.4", {"split_flush": "stable"})
    assert "split_flush" not in [switch for switch, _, _ in safe]


@pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.kernel)
def test_the_hole_is_found_where_it_is(profile) -> None:
    lines = HOLE.read_text().splitlines()
    found = check_lines(lines, kernel=profile.kernel)
    assert (found is not None) == (profile.kernel == "7.3.4")
    for switch, _, safe in unsafe_values(profile.kernel, {}):
        if switch == "split_flush":
            assert check_lines([f"design {switch}={safe}", *lines], kernel=profile.kernel) is None


def test_check_names_it_and_the_way_around_it(invoke) -> None:
    found = invoke("check", HOLE, "--kernel", "7.3.4")
    assert found.exit_code == 1
    assert found.output.endswith(
        "  known: split_flush=if_not_identical of this kernel is unsafe; "
        "with --design split_flush=stable all holds\n"
    )
    assert invoke("check", HOLE, "--kernel", "7.3.4", "--design", "split_flush=stable").exit_code == 0
