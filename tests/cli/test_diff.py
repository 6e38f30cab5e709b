import json

import pytest


@pytest.fixture
def scenario(small):
    return small("read 0x400000", "read 0x408000", pages=16)


def test_a_setting_given_once_is_of_the_right_side(invoke, scenario):
    lines = invoke("diff", scenario, "--design", "prefetch_window=off").output.splitlines()
    assert lines[0].split() == ["as", "it", "is", "|", "prefetch_window=off"]
    assert "prefetch_window=off differs in 2 of 2 ops" in lines[-2]


def test_given_twice_it_is_of_both_sides(invoke, scenario):
    both = ["--design", "prefetch_window=off", "--design", "prefetch_window=16_aligned"]
    head = invoke("diff", scenario, *both).output.splitlines()[0]
    assert head.split() == ["prefetch_window=off", "|", "prefetch_window=16_aligned"]


def test_what_is_equal_on_both_sides_does_not_name_them(invoke, scenario):
    both = ["--design", "eager_split=all"] * 2
    head = invoke("diff", scenario, *both, "--kernel", "6.1").output.splitlines()[0]
    assert head.split() == ["as", "it", "is", "|", "kernel=6.1"]


def test_as_json_it_is_one_object(invoke, scenario):
    found = json.loads(invoke("diff", "--json", scenario, "--vendor", "intel").output)
    assert found["right"] == "vendor=intel"
    assert [op["op"] for op in found["ops"]] == [0, 1]


def test_two_files_are_compared_with_each_other(invoke, fixtures):
    files = fixtures.scenarios / "b-unsync.txt", fixtures.recordings / "b-unsync.jsonl"
    assert "do the same in all 25 ops." in " ".join(invoke("diff", *files).output.split())


def test_an_unsafe_side_is_said(invoke, scenario):
    output = invoke("diff", scenario, "--design", "split_flush=never").output
    assert "split_flush=never is known to be unsafe" in " ".join(output.split())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "both sides are the same"),
        (("--kernel", "6.1", "--kernel", "6.12", "--kernel", "6.1"), "there are two sides; give two values"),
        (("--design", "x"), "'x' must be a setting, KEY=VALUE"),
        (("--design", "nonsense=1"), "nonsense"),
        (("--kernel", "2.6"), "2.6"),
    ],
)
def test_what_cannot_be_compared_is_one_line(invoke, scenario, arguments, said):
    result = invoke("diff", scenario, *arguments)
    assert result.exit_code != 0
    assert said in result.output


def test_there_are_no_colours_in_a_pipe(command, scenario):
    output = command("diff", scenario, "--design", "prefetch_window=off").stdout
    assert output
    assert "\x1b" not in output
    assert max(map(len, output.splitlines())) <= 80
