import numpy as np
import pytest
import torch

from litengine.data.sources.histogram import histogram, moments


def test_mean_and_deviation_are_those_of_numpy():
    pixels = np.random.default_rng(0).integers(0, 256, (50, 3, 7, 5), dtype=np.uint8)
    pixels[:, 1] = 51  # one colour has no deviation
    counts = histogram(torch.from_numpy(pixels[:20])) + histogram(torch.from_numpy(pixels[20:]))
    assert counts.dtype == torch.int64 and counts.sum(1).tolist() == [50 * 7 * 5] * 3
    mean, std = moments(counts)
    assert mean == pytest.approx((pixels / 255).mean((0, 2, 3)), abs=1e-12)
    assert std == pytest.approx((pixels / 255).std((0, 2, 3)), abs=1e-7)
