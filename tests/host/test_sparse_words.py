"""Words that take memory only where they are written do what a memoryview of words does."""

import json
from array import array

import pytest
from hypothesis import given, strategies as st
from show.recorded import SCENARIOS

import shadowmmu
from shadowmmu.guest.scenario.parser import load_scenario
from shadowmmu.host import memory
from shadowmmu.host.sparse_words import PAGE_WORDS, SparseWords
from shadowmmu.show.history.played import played_rows

COUNT = 3 * PAGE_WORDS + 7
PLACE = st.integers(0, COUNT - 1)
WORD = st.integers(0, (1 << 64) - 1)
PART = st.tuples(PLACE, PLACE).map(sorted)
WRITES = st.lists(st.one_of(st.tuples(PLACE, WORD), st.tuples(PART, WORD)), max_size=8)


@given(writes=WRITES, part=PART)
def test_they_are_as_an_array_of_all_words(writes, part):
    words, whole = SparseWords(COUNT), array("Q", bytes(8 * COUNT))
    for place, value in writes:
        if isinstance(place, int):
            words[place] = whole[place] = value
        else:
            first, last = place
            some = array("Q", [(value + i) % (1 << 64) for i in range(last - first)])
            words[first:last] = some
            whole[first:last] = some
    assert words[0:COUNT] == whole
    assert words[part[0] : part[1]].tobytes() == whole[part[0] : part[1]].tobytes()
    assert [words[i] for i in range(COUNT)] == whole.tolist()
    assert (len(words), words.nbytes) == (COUNT, 8 * COUNT)


def test_what_was_not_written_takes_no_memory():
    words = SparseWords(1 << 60)
    words[1 << 59] = 7
    assert (words[0], words[1 << 59], words.nbytes) == (0, 7, 1 << 63)
    assert len(words._pages) == 1


@pytest.mark.parametrize("index", [-1, COUNT])
def test_a_word_outside_is_refused(index):
    words = SparseWords(COUNT)
    with pytest.raises(IndexError):
        words[index]
    with pytest.raises(IndexError):
        words[index] = 1


def test_what_is_no_word_and_what_does_not_fit_is_refused():
    words = SparseWords(COUNT)
    for value in (-1, 1 << 64):
        with pytest.raises(OverflowError):
            words[0] = value
    with pytest.raises(ValueError, match="2 words for 3"):
        words[0:3] = [1, 2]
    with pytest.raises(ValueError, match="neighbouring"):
        words[0:4:2]


@pytest.mark.skipif(shadowmmu.native, reason="compiled code reads its words from memory")
@pytest.mark.parametrize("largest", [0, memory.LARGEST_WHOLE])
@pytest.mark.parametrize("name", ["b-unsync", "n7-ncr3", "tdp1-a-map4"])
def test_scenarios_play_the_same_where_nothing_can_be_reserved(name, largest, monkeypatch):
    scenario = load_scenario(SCENARIOS / f"{name}.txt")

    def rows():
        return [json.dumps(row) for _, row, _ in played_rows(scenario)]

    reserved = rows()
    monkeypatch.setattr(memory, "RESERVES", False)
    monkeypatch.setattr(memory, "LARGEST_WHOLE", largest)
    assert rows() == reserved
