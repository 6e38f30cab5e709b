"""What of a scenario `run` shows: kinds of lines, a range of ops, or the totals only."""

import pytest


@pytest.fixture
def scenario(small):
    return small("read 0x400000", "write 0x401000 7", "nop")


def ops(output):
    return [line.split()[0] for line in output.splitlines() if line[:5].strip().isdigit()]


def test_only_events_leaves_the_changes_out(invoke, scenario):
    output = invoke("run", scenario, "--only", "events").output
    assert "page fault at 400000" in output
    assert "S7 new" not in output


def test_only_results_leaves_both_out(invoke, scenario):
    output = invoke("run", scenario, "--only", "results").output
    assert ops(output) == ["0", "1", "2"]
    assert "page fault at" not in output
    assert "new: level" not in output


def test_a_range_of_ops_is_shown_and_all_are_counted(invoke, scenario):
    output = invoke("run", scenario, "--from", "1", "--to", "1").output
    assert ops(output) == ["1"]
    assert "small: 3 ops" in output


def test_quiet_shows_the_totals(invoke, scenario):
    assert invoke("run", scenario, "--quiet").output.startswith("small: 3 ops (3 ok)")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--json", "--quiet"], "--quiet: --json prints everything"),
        (["--from", "3", "--to", "1"], "no op is in between"),
    ],
)
def test_what_does_not_fit_together_is_refused(invoke, scenario, arguments, said):
    done = invoke("run", scenario, *arguments)
    assert done.exit_code == 2
    assert said in done.output


def test_a_guest_without_a_root_table_has_a_dummy_root_in_words(invoke, small):
    path = small("read 0x400000", "write 0x401000 7", "cr3 0xd0000000")
    output = invoke("run", path).output
    assert "root dummy: the guest's own root table is in no memory slot" in output
    assert "exit 8 (shutdown: a triple fault, the vCPU cannot continue)" in output
