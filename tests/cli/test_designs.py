import json

from shadowmmu.kvm.design.switches import PROFILES, SWITCHES

SCENARIO = """\
mode long4
slot 0 0x0 16M
alloc 0x2000
tramp 0x1000
design empty_spte=0
start cr3=0x1000
read 0x7f0000000000
"""


def test_every_switch_is_listed_with_its_values(invoke):
    output = invoke("designs").output
    for switch in SWITCHES:
        assert f"  {switch.name} = " in output
    assert "empty_spte = 0 | 1<<63*" in output


def test_named_ones_only_and_as_json(invoke):
    found = json.loads(invoke("designs", "--json", "empty_spte").output)
    assert list(found) == ["empty_spte"]
    assert found["empty_spte"]["default"] == "1<<63"
    assert found["empty_spte"]["kernels"] == {
        profile.kernel: "0" if profile.series == "6.1" else "1<<63" for profile in PROFILES
    }


def test_the_nearest_name_is_shown(invoke):
    for args in (("designs", "emty_spte"), ("run", "--design", "emty_spte=0")):
        refused = invoke(*args)
        assert refused.exit_code != 0
        assert refused.output.endswith("no switch 'emty_spte'; did you mean 'empty_spte'?\n")


def test_what_is_no_setting(invoke):
    refused = invoke("run", "--design", "empty_spte")
    assert refused.exit_code == 2
    assert "'empty_spte' is not a setting; write KEY=VALUE" in refused.output


def test_scenario_and_option_set_switches_and_the_recording_says_so(invoke, tmp_path):
    scenario = tmp_path / "s.txt"
    scenario.write_text(SCENARIO)
    assert invoke("run", scenario, "--record", tmp_path / "a.jsonl").exit_code == 0
    assert (
        invoke("run", scenario, "--design", "empty_spte=1<<63", "--record", tmp_path / "b.jsonl").exit_code
        == 0
    )
    zero, bit63 = ((tmp_path / name).read_text().splitlines() for name in ("a.jsonl", "b.jsonl"))
    assert json.loads(zero[0])["design"] == {"empty_spte": "0"}
    assert json.loads(bit63[0])["design"] == {"empty_spte": "1<<63"}
    assert zero[1:] != bit63[1:]
    assert invoke("compare", tmp_path / "a.jsonl", tmp_path / "b.jsonl").exit_code == 0


def test_a_wrong_design_line_is_named(invoke, tmp_path):
    scenario = tmp_path / "s.txt"
    scenario.write_text(SCENARIO.replace("empty_spte=0", "empty_spte=2"))
    refused = invoke("run", scenario)
    assert refused.exit_code != 0
    assert "s.txt:5: switch empty_spte has no value '2'; there are 0, 1<<63" in refused.output
