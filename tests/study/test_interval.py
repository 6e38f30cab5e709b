"""Confidence intervals by Student's t."""

import pytest

from shadowmmu.study.interval import half_width, t_quantile


@pytest.mark.parametrize(
    ("freedom", "quantile"),
    [
        (1, 12.7062),
        (2, 4.3027),
        (3, 3.1824),
        (4, 2.7764),
        (5, 2.5706),
        (9, 2.2622),
        (30, 2.0423),
        (100, 1.9840),
    ],
)
def test_quantiles_are_those_of_printed_tables(freedom: int, quantile: float) -> None:
    assert t_quantile(freedom) == pytest.approx(quantile, abs=1e-4)


def test_the_interval_of_a_mean() -> None:
    assert half_width([1, 2, 3, 4, 5]) == pytest.approx(2.7764 * (2.5 / 5) ** 0.5, abs=1e-4)
    assert half_width([7, 7, 7]) == 0
    assert half_width([7]) is None
