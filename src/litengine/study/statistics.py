"""What several runs say together."""

import math
from collections.abc import Sequence
from typing import NamedTuple


class Summary(NamedTuple):
    """Of a metric over several runs: `std` is the standard deviation of single runs (n - 1), `low` to `high` the 95 %
    interval of the mean. All but the mean are NaN for one run."""

    mean: float
    std: float
    low: float
    high: float


def summarize(values: Sequence[float]) -> Summary:
    """Mean, sample standard deviation and Student's t interval.

    Args:
        values: one or more.
    """
    from scipy.special import stdtrit  # inverse of Student's t

    number = len(values)
    mean = math.fsum(values) / number
    if number == 1:
        return Summary(mean, math.nan, math.nan, math.nan)
    std = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (number - 1))
    half = float(stdtrit(number - 1, 0.975)) * std / math.sqrt(number)
    return Summary(mean, std, mean - half, mean + half)
