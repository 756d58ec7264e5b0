import numpy as np
import pytest
import torch

from litengine.data.sources.histogram import histogram, moments


def test_mean_and_deviation_are_those_of_numpy():
    pixels = np.random.default_rng(0).integers(0, 256, (50, 3, 7, 5), dtype=np.uint8)
    pixels[:, 1] //= 3
    counts = histogram(torch.from_numpy(pixels[:20])) + histogram(torch.from_numpy(pixels[20:]))
    assert counts.dtype == torch.int64 and counts.shape == (3, 256)
    assert counts.sum(1).tolist() == [50 * 7 * 5] * 3
    mean, std = moments(counts)
    assert mean == pytest.approx((pixels / 255).mean((0, 2, 3)), abs=1e-12)
    assert std == pytest.approx((pixels / 255).std((0, 2, 3)), abs=1e-12)


def test_one_colour_has_no_deviation():
    mean, std = moments(histogram(torch.full((4, 2, 3, 3), 51, dtype=torch.uint8)))
    assert mean == pytest.approx([0.2, 0.2]) and std == pytest.approx([0, 0], abs=1e-7)
