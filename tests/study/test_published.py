"""Published figures: what counts as agreement, and that each is measured."""

import pytest

from shadowmmu.study.costs import default_costs
from shadowmmu.study.published import FIGURES, Compared, Figure, Pair, compare


def compared(published: Pair, ours: Pair, *, absolute: bool = False) -> Compared:
    return Compared(Figure("a", "a mail", "s", published, lambda costs: ours, "why", absolute=absolute), ours)


@pytest.mark.parametrize(
    ("ours", "verdict"),
    [
        ((20, 10), "the same direction, within 25%"),
        ((2.4, 1), "the same direction, within 25%"),
        ((13, 10), "the same direction, not as much: why"),
        ((40, 10), "the same direction, more: why"),
        ((40, 0), "the same direction, more: why"),
        ((10, 20), "the other direction: why"),
        ((10, 10), "the other direction: why"),
    ],
)
def test_ratios_are_compared(ours: Pair, verdict: str) -> None:
    assert compared((2, 1), ours).verdict == verdict


def test_a_price_may_be_more_or_less_too() -> None:
    assert compared((1, 10), (1, 11)).close
    assert compared((1, 10), (1, 99)).verdict == "the same direction, more: why"
    assert compared((1, 10), (1, 2)).verdict == "the same direction, not as much: why"


def test_or_the_numbers_themselves() -> None:
    assert compared((2, 0), (2.2, 0), absolute=True).close
    assert compared((2, 0), (1.2, 0), absolute=True).verdict == "the same direction, not as much: why"
    assert compared((2, 0), (3.2, 0), absolute=True).verdict == "the same direction, more: why"


def test_every_figure_names_its_source_and_what_is_different() -> None:
    assert len({figure.name for figure in FIGURES}) == len(FIGURES)
    for figure in FIGURES:
        assert any(year in figure.source for year in ("2007", "2010", "2012", "2016", "2022", "2023"))
        assert len(figure.difference) > 30


def test_an_exit_of_three_is_spared() -> None:
    (figure,) = (one for one in FIGURES if one.name.startswith("exits of a guest fault"))
    (found,) = compare(default_costs(), (figure,))
    assert found.same_direction
    assert found.close
