import math

import numpy as np
import pytest
from scipy import stats

from litengine.study.statistics import summarize


@pytest.mark.parametrize("number", [2, 3, 5, 30])
def test_summary_equals_that_of_numpy_and_scipy(number):
    values = np.random.default_rng(number).normal(0.9, 0.02, number)
    summary = summarize(values.tolist())
    assert summary.mean == pytest.approx(values.mean(), abs=1e-15)
    assert summary.std == pytest.approx(values.std(ddof=1), abs=1e-15)
    interval = stats.t.interval(0.95, number - 1, values.mean(), stats.sem(values))
    assert (summary.low, summary.high) == pytest.approx(interval, abs=1e-12)


def test_summary_of_two_by_hand():
    # t(0.975, 1) = tan(0.475 pi); std of 0 and 1 is sqrt(1/2)
    summary = summarize([0.0, 1.0])
    half = math.tan(0.475 * math.pi) * math.sqrt(0.5) / math.sqrt(2)
    assert summary == pytest.approx((0.5, math.sqrt(0.5), 0.5 - half, 0.5 + half))


def test_one_value_has_a_mean_only():
    summary = summarize([0.7])
    assert summary.mean == 0.7 and all(map(math.isnan, summary[1:]))


def test_equal_values_have_no_deviation():
    assert summarize([0.9] * 4) == pytest.approx((0.9, 0, 0.9, 0.9))


def test_the_interval_holds_the_true_mean_in_95_of_100_studies():
    random = np.random.default_rng(0)
    held = [summarize(random.normal(0.5, 0.1, 5).tolist()) for _ in range(4000)]
    assert np.mean([s.low <= 0.5 <= s.high for s in held]) == pytest.approx(0.95, abs=0.012)
