"""95 % intervals: against scipy, against a closed form, and by how often they are right."""

import math

import numpy as np
import pytest
from scipy.stats import binomtest

from ldmkit.records import RecordError
from ldmkit.records.stats import mean_of, paired_difference, wilson


@pytest.mark.parametrize(("hits", "count"), [(0, 5), (5, 5), (3, 7), (418, 500), (1, 1)])
def test_wilson_is_scipys(hits, count):
    want = binomtest(hits, count).proportion_ci(0.95, "wilson")
    assert wilson(hits, count) == pytest.approx((want.low, want.high), abs=1e-6)


def test_an_interval_holds_its_share():
    """To the last bit: matplotlib refuses error bars of negative length."""
    for count in range(1, 400):
        for hits in (0, 1, count - 1, count):
            low, high = wilson(hits, count)
            assert 0 <= low <= hits / count <= high <= 1


def test_nothing_counted_says_nothing():
    assert wilson(0, 0) == (0.0, 1.0)
    assert all(map(math.isnan, mean_of([np.nan])))
    assert all(map(math.isnan, paired_difference([1, np.nan], [np.nan, 0])))


def test_mean_of_shares_and_of_numbers():
    assert mean_of([1, 0, 1, np.nan]) == pytest.approx((2 / 3, *wilson(2, 3)))
    value, low, high = mean_of([0.1, 0.2, 0.3, 0.6])
    half = 1.959964 * np.std([0.1, 0.2, 0.3, 0.6], ddof=1) / 2
    assert (value, low, high) == pytest.approx((0.3, 0.3 - half, 0.3 + half))
    one = mean_of([0.4])
    assert one.value == 0.4
    assert math.isnan(one.low)


def test_paired_shares_are_bonett_and_prices():
    first, second = np.repeat([1, 1, 0, 0], [20, 9, 3, 8]), np.repeat([1, 0, 1, 0], [20, 9, 3, 8])
    value, low, high = paired_difference(first, second)
    p, q = 10 / 42, 4 / 42
    half = 1.959964 * math.sqrt((p + q - (p - q) ** 2) / 42)
    assert (value, low, high) == pytest.approx((6 / 40, p - q - half, p - q + half), abs=1e-9)


def test_few_pairs_without_a_difference_claim_nothing():
    value, low, high = paired_difference([1, 1, 1], [1, 1, 1])
    assert value == 0
    assert low < -0.3
    assert high > 0.3


def test_paired_shares_cover_the_truth():
    rng = np.random.default_rng(0)
    chances, runs, hits = np.array([0.5, 0.25, 0.1, 0.15]), 1500, 0
    for counts in rng.multinomial(40, chances, size=runs):
        _, low, high = paired_difference(
            np.repeat([1, 1, 0, 0], counts), np.repeat([1, 0, 1, 0], counts)
        )
        hits += low <= 0.15 <= high
    assert 0.94 <= hits / runs <= 0.975


def test_paired_numbers():
    a, b = np.array([0.3, 0.5, 0.9]), np.array([0.1, 0.4, 0.2])
    value, low, high = paired_difference(a, b)
    half = 1.959964 * np.std(a - b, ddof=1) / math.sqrt(3)
    assert (value, low, high) == pytest.approx((1 / 3, 1 / 3 - half, 1 / 3 + half))
    assert str(paired_difference([1], [1])).startswith("0.00 (95 %: -")


def test_pairs_must_be_pairs():
    with pytest.raises(RecordError, match="as many of both, got 2 and 3"):
        paired_difference([1, 0], [1, 0, 1])
