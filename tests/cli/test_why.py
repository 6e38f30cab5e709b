import json

import pytest


@pytest.fixture
def scenario(small):
    return small("read 0x400000", "cr3 0x1000")


def test_a_walk_shows_the_history_of_each_entry(invoke, scenario):
    lines = invoke("why", scenario, "--gva", "0x400000").output.splitlines()
    assert lines[0] == "0x400000 on vCPU 0 after op 1: cr3 0x1000"
    leaf = next(n for n, line in enumerate(lines) if line.strip().startswith("L1 S"))
    assert "the way to 0x400000 is built: fetch" in lines[leaf + 1]


def test_before_the_first_op_there_is_no_root(invoke, scenario):
    assert "the vCPU has no root" in invoke("why", scenario, "--gva", "0x400000", "--at", "-1").output


def test_flushes_are_counted_by_cause(invoke, scenario):
    lines = invoke("why", scenario, "--flushes").output.splitlines()
    assert "the guest wrote CR3: kvm_set_cr3" in "\n".join(lines)


def test_as_json_a_change_has_all_its_causes(invoke, scenario):
    found = json.loads(invoke("why", scenario, "--gfn", "0x800", "--json").output)
    functions = [cause["function"] for cause in found["changes"][0]["causes"]]
    assert found["changes"][0]["mechanism"]["function"] == "fetch"
    assert functions[-1] == "page_fault_exit"


def test_the_pages_are_listed_with_why_they_were_made(invoke, scenario):
    lines = invoke("why", scenario, "--pages").output.splitlines()
    assert lines[0] == f"{sum(' role 0x' in line for line in lines)} shadow pages after op 1: cr3 0x1000"
    assert "a vCPU without a root gets one: kvm_mmu_load" in lines[-2]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "give one of --gva X, --gfn G, --sp S7, --pages, --flushes, --zaps"),
        (["--gva", "1", "--zaps"], "give one of"),
        (["--gva", "x"], "'x' must be a number"),
        (["--zaps", "--at", "7"], "--at '7' must be the number of an op, -1 to 1"),
        (["--sp", "S99"], "no such shadow page"),
        (["--gva", "1", "--vcpu", "3"], "--vcpu 3"),
        (["--gva", "1", "--l2"], "--l2"),
    ],
)
def test_what_cannot_be_answered_is_said_in_one_line(invoke, scenario, arguments, said):
    done = invoke("why", scenario, *arguments)
    assert done.exit_code == 2
    assert said in done.output
    assert "Traceback" not in done.output


def test_of_a_program_only_an_address_is_explained(invoke):
    done = invoke("why", "/bin/ls", "--zaps")
    assert done.exit_code == 2
    assert "of a program give --gva X" in done.output
