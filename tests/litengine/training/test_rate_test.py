"""The range test raises the rate as it says, keeps the groups' ratios, and suggests where the loss falls fastest."""

import math

import pytest
import torch
from helpers import FakeSource, trainer
from lightning.pytorch import Callback
from project_for_tests import ImageClassifier, ImageData
from torch import nn

from litengine.training.rate_test import Curve, RateRangeTest


def test_the_steepest_fall_of_a_known_curve():
    rates = [10 ** (place / 10 - 4) for place in range(41)]
    losses = [2 - 1 / (1 + math.exp(-2 * (math.log10(rate) + 2) * 3)) + (rate > 0.5) * 9 for rate in rates]
    assert Curve(rates, losses).steepest == pytest.approx(1e-2)  # the middle of the sigmoid


def test_a_loss_that_only_rises_suggests_nothing():
    assert Curve([1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 3.0, 4.0]).steepest is None
    assert Curve().steepest is None


class Rates(Callback):
    def __init__(self):
        self.seen = []

    def on_train_batch_end(self, trainer, *args):
        self.seen.append([group["lr"] for group in trainer.optimizers[0].param_groups])


def classifier(**options):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, 3))

    def sgd(groups):
        return torch.optim.SGD(groups, lr=0.5)

    return ImageClassifier(network, optimizer=sgd, lr_scheduler=None, **options)


def test_rates_rise_by_one_factor_and_groups_keep_their_ratio():
    test, rates = RateRangeTest(steps=10, lowest=1e-4, highest=1e-1), Rates()
    module = classifier(parameter_groups={"biases": {"lr": 2.0}})  # four times that of the matrices
    runner = trainer(test, rates, epochs=-1, max_steps=10, limit_val_batches=0)
    runner.fit(module, ImageData(FakeSource(), batch_size=8))
    expected = [1e-4 * 10 ** (3 * step / 9) for step in range(10)]
    assert [first for first, _ in rates.seen] == pytest.approx(expected)
    assert [second / first for first, second in rates.seen] == pytest.approx([4.0] * 10)
    assert test.curve.rates == pytest.approx(expected)


def test_it_stops_where_the_loss_breaks():
    test = RateRangeTest(steps=60, lowest=1e-3, highest=1e6)
    trainer(test, epochs=-1, max_steps=60, limit_val_batches=0).fit(classifier(), ImageData(FakeSource(), batch_size=8))
    assert 10 < len(test.curve.rates) < 60
    assert all(map(math.isfinite, test.curve.losses))
    assert test.curve.steepest is not None and test.curve.steepest < test.curve.rates[-1]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"steps": 3, "lowest": 1e-6, "highest": 1}, "--steps is 3: choose 10 or more"),
        ({"steps": 50, "lowest": 1, "highest": 1e-3}, "choose a --lowest above 0 and below --highest"),
        ({"steps": 50, "lowest": 0, "highest": 1}, "choose a --lowest above 0 and below --highest"),
    ],
)
def test_bad_options_are_named(options, words):
    with pytest.raises(ValueError, match=words):
        RateRangeTest(**options)
