"""The table of the scenario language is what the parsers understand."""

import pytest

from shadowmmu.guest.scenario.language import GROUPS, WORDS, language_text
from shadowmmu.guest.scenario.op_parser import OpParser
from shadowmmu.guest.scenario.parser import ScenarioParser, parse_scenario
from shadowmmu.guest.scenario.setup import ScenarioError

ANY_LINE = {"title", "param", "vendor", "design"}
END = "end"
PLAIN = (
    "mode long4",
    "vcpus 2",
    "slot 0 0x0 16M",
    "alloc 0x20000",
    "tramp 0x1000",
    "map 0x1000 0x400000 0x800000 0x67 n=8",
)
NESTED = ("param kvm_amd npt=1", "mode long4", "vcpus 2", "slot 0 0x0 16M", "nested", "alloc 0x20000")
ONCE = ("mode", "vcpus", "alloc", "nested")


def op_words():
    parser = OpParser()
    parser.allow_nested()
    return set(parser._ops)


def written(word, *, op):
    """A scenario with the word's example in it."""
    nested = word.name in {text.name for text in GROUPS["A guest that is a hypervisor"]} | {"nested"}
    base = [*(NESTED if nested else PLAIN)]
    if word.name == "slot":
        base = [line for line in base if not line.startswith(("slot", "alloc", "tramp", "map"))]
    if word.name in ONCE:
        base = [line for line in base if not line.startswith(word.name)]
    if word.name == "host":
        base.insert(0, "vendor intel")
    if word.name == "mode":
        base.insert(0, word.example)
    elif word.name == "start":
        return [*base, word.example, "nop"]
    elif not op:
        base.append(word.example)
    tail = [word.example, "@1 nop"] if op else ["nop"]
    return [*base, "start cr3=0x1000", "nop", *tail]


@pytest.mark.parametrize("word", WORDS.values(), ids=list(WORDS))
def test_the_example_of_a_word_is_understood_where_the_table_says(word):
    for op in (False, True):
        if (word.op if op else word.setup) or word.name in ANY_LINE:
            parse_scenario("\n".join(written(word, op=op)))
        elif not op and word.op:
            with pytest.raises(ScenarioError):
                parse_scenario("\n".join(written(word, op=False)))


def test_every_word_of_the_parsers_is_in_the_table():
    setup = {name for name, word in WORDS.items() if word.setup} - ANY_LINE
    ops = {form + name for name, word in WORDS.items() if word.op for form in ("", *word.forms)}
    assert setup == set(ScenarioParser("x")._setup_words)
    assert ops - ANY_LINE - {END} == op_words()


def test_a_refused_line_shows_the_usage_of_the_table():
    with pytest.raises(ScenarioError) as refused:
        parse_scenario("\n".join((*PLAIN, "start cr3=0x1000", "cmpxchg 0x400000")))
    assert f"write `{WORDS['cmpxchg'].usage}`" in str(refused.value)


def test_a_line_of_the_reference_is_as_wide_as_asked():
    assert max(map(len, language_text(60).split("\n"))) <= 60
    for name, word in WORDS.items():
        assert name in language_text(100), name
        assert word.means[-1] == ".", name
