import functools
import io

import numpy as np
import pytest
import torch
from jsonargparse import ArgumentParser
from lightning.pytorch.cli import LRSchedulerCallable
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, OneCycleLR, StepLR

from litengine.optim import Muon, PiecewiseLinear, WarmupCosine, make_schedule


def optimizer_of(*rates: float) -> torch.optim.Optimizer:
    return torch.optim.SGD([{"params": [torch.zeros(1)], "lr": rate} for rate in rates or (1.0,)])


def rates_of(schedule: LRScheduler, steps: int) -> list[list[float]]:
    """The rates of every group that each of the steps is taken with."""
    seen = []
    for _ in range(steps):
        seen.append([group["lr"] for group in schedule.optimizer.param_groups])
        schedule.optimizer.step()
        schedule.step()
    return seen


def piecewise(**options):
    return lambda optimizer: PiecewiseLinear(optimizer, **options)


def warmup_cosine(**options):
    return lambda optimizer: WarmupCosine(optimizer, **options)


# Courses against closed forms


@pytest.mark.parametrize(
    ("points", "steps"),
    [
        ({0: 0.2, 0.23: 1, 1: 0.07}, 100),
        ({0: 0.2, 0.23: 1, 1: 0.07}, 7),
        ({0: 1, 1: 0}, 200),
        ({0.25: 1, 0.5: 0.5, 0.75: 2}, 40),
        ({0.5: 0.3}, 10),
        ({0: 1.0, 1: 0.5}, 1),
    ],
)
def test_piecewise_linear_interpolates_between_its_points(points, steps):
    schedule = PiecewiseLinear(optimizer_of(1.0, 30.0), points, total_steps=steps)
    positions = np.arange(steps) / steps
    factors = np.interp(positions, list(points), list(points.values()))
    np.testing.assert_allclose(rates_of(schedule, steps), np.outer(factors, [1.0, 30.0]), rtol=1e-12)


def test_piecewise_linear_in_epochs_and_beyond_the_training():
    points = {0: 0, 2: 1, 10: 0}
    schedule = PiecewiseLinear(optimizer_of(), points, total_steps=12, unit="epochs", total_epochs=4)
    expected = np.interp(np.arange(15) / 3, list(points), list(points.values()))  # 3 steps an epoch
    np.testing.assert_allclose(np.ravel(rates_of(schedule, 15)), expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("options", "warmup_steps"),
    [
        ({"warmup": 0.1}, 10),
        ({"warmup": 0.1, "end": 0.3}, 10),
        ({}, 5),
        ({"warmup": 0}, 0),
        ({"warmup": 0.999, "end": 0.5}, 100),
        ({"warmup": 2.5, "unit": "epochs", "total_epochs": 20}, 12),
        ({"warmup": 50, "unit": "epochs", "total_epochs": 20}, 250),
    ],
)
def test_warmup_cosine_rises_in_a_line_and_falls_along_half_a_cosine(options, warmup_steps):
    steps, end = 100, options.get("end", 0.0)
    schedule = WarmupCosine(optimizer_of(1.0, 0.25), total_steps=steps, **options)
    step = np.arange(steps)
    rise = (step + 1) / (warmup_steps + 1)
    angle = np.pi * (step - warmup_steps) / max(1, steps - 1 - warmup_steps)
    factors = np.where(step <= warmup_steps, rise, end + (1 - end) * (1 + np.cos(angle)) / 2)
    np.testing.assert_allclose(rates_of(schedule, steps), np.outer(factors, [1.0, 0.25]), rtol=1e-12, atol=1e-15)
    if warmup_steps < steps - 1:
        assert max(factors) == factors[warmup_steps] == 1
        np.testing.assert_allclose(rates_of(schedule, 3), [[end, end / 4]] * 3, atol=1e-15)  # it stays there


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_very_short_trainings_work(steps):
    for warmup in (0.0, 0.05, 0.5):
        rates = np.ravel(rates_of(WarmupCosine(optimizer_of(), warmup, total_steps=steps), steps))
        assert np.isfinite(rates).all() and rates[0] > 0


# State

COURSES = [
    piecewise(points={0: 0.2, 0.23: 1, 1: 0.07}, total_steps=20),
    piecewise(points={0: 0.2, 5: 1}, unit="epochs", total_epochs=8, total_steps=20),
    warmup_cosine(warmup=0.2, end=0.01, total_steps=20),
    warmup_cosine(warmup=2, unit="epochs", total_epochs=8, total_steps=20),
]


@pytest.mark.parametrize("make", COURSES)
def test_a_schedule_goes_on_from_a_saved_state_with_the_same_bits(make):
    whole = rates_of(make(optimizer_of(1.0, 0.1)), 20)
    half = make(optimizer_of(1.0, 0.1))
    before = rates_of(half, 7)
    file = io.BytesIO()
    torch.save({"schedule": half.state_dict(), "optimizer": half.optimizer.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    resumed = make(optimizer_of(1.0, 0.1))
    resumed.optimizer.load_state_dict(saved["optimizer"])
    resumed.load_state_dict(saved["schedule"])
    assert resumed.total_steps == 20
    assert resumed.get_last_lr() == half.get_last_lr()
    assert before + rates_of(resumed, 13) == whole


# What cannot work


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (piecewise(points={}, total_steps=9), r"positions of points are \[\], rising ones"),
        (piecewise(points={0.2: 0, 1: 0.23, 0.07: 1}, total_steps=9), r"rising ones .* \{position: factor\}"),
        (piecewise(points={"0": 1, 0.0: 2}, total_steps=9), r"\[0.0, 0.0\], rising ones"),
        (piecewise(points={0: 1, 30: 0}, total_steps=9), r"\[0.0, 30.0\]: give fractions .*, 0 to 1, or unit: epochs"),
        (piecewise(points={float("nan"): 1}, total_steps=9), r"\[nan\]: give fractions of the training"),
        (piecewise(points={-1: 1}, total_steps=9, unit="epochs", total_epochs=3), r"\[-1.0\]: .* epochs of 0 or more"),
        (piecewise(points={0: 1, 1: -0.5}, total_steps=9), r"factors of points are \[1.0, -0.5\], 0 or more"),
        (piecewise(points={0: float("nan")}, total_steps=9), r"factors of points are \[nan\]"),
        (piecewise(points={0: 1}), r"PiecewiseLinear: total_steps is None, the steps of the training"),
        (piecewise(points={0: 1}, total_steps=9, unit="epochs"), r"total_epochs is None, positions in epochs"),
        (piecewise(points={0: 1}, total_steps=9, unit="steps"), r"unit is 'steps', 'fraction' or 'epochs'"),
        (warmup_cosine(total_steps=9, warmup=1.0), r"warmup is 1.0: give a fraction .*0 to below 1, or unit: epochs"),
        (
            warmup_cosine(total_steps=9, warmup=-1, unit="epochs", total_epochs=2),
            r"warmup is -1: .* epochs of 0 or more",
        ),
        (warmup_cosine(total_steps=9, end=-1.0), r"end is -1.0, a factor of 0 or more"),
        (warmup_cosine(total_steps=0), r"WarmupCosine: total_steps is 0"),
        (warmup_cosine(total_steps=9, unit="epochs", total_epochs=0), r"WarmupCosine: total_epochs is 0"),
    ],
)
def test_what_cannot_work_says_why(make, words):
    with pytest.raises(ValueError, match=words):
        make(optimizer_of())


# Made for a fit


def asked_for(factory) -> tuple[LRScheduler, str, list[str]]:
    """The schedule for a fit of 40 steps in 5 epochs, how often it moves, and which of the two it asked for."""
    asked = []

    def length(name: str, number: int) -> int:
        asked.append(name)
        return number

    lengths = (functools.partial(length, "steps", 40), functools.partial(length, "epochs", 5))
    return *make_schedule(factory, optimizer_of(), *lengths), asked


POINTS = {0: 1.0, 1: 0.5}


@pytest.mark.parametrize(
    ("factory", "interval", "asked", "lengths"),
    [
        (functools.partial(PiecewiseLinear, points=POINTS), "step", ["steps", "epochs"], {"total_steps": 40}),
        (functools.partial(PiecewiseLinear, points=POINTS, total_steps=8), "step", ["epochs"], {"total_steps": 8}),
        (functools.partial(WarmupCosine, total_steps=None, total_epochs=9.5), "step", ["steps"], {"total_steps": 40}),
        (WarmupCosine, "step", ["steps", "epochs"], {"total_steps": 40, "warmup_steps": 2}),
        (
            functools.partial(WarmupCosine, warmup=1, unit="epochs"),
            "step",
            ["steps", "epochs"],
            {"total_steps": 40, "warmup_steps": 8},
        ),
        (functools.partial(OneCycleLR, max_lr=1.0), "step", ["steps"], {"total_steps": 40}),
        (functools.partial(CosineAnnealingLR, T_max=0), "epoch", ["epochs"], {"T_max": 5}),
        (functools.partial(CosineAnnealingLR, T_max=3), "epoch", [], {"T_max": 3}),
        (lambda optimizer: StepLR(optimizer, 3), "epoch", [], {"step_size": 3}),
    ],
)
def test_make_schedule_fills_in_the_lengths_that_were_not_given(factory, interval, asked, lengths):
    schedule, moved, questions = asked_for(factory)
    assert (moved, questions) == (interval, asked)
    assert {name: getattr(schedule, name) for name in lengths} == lengths


class Model:
    """Takes a schedule from the command line as the classifier does."""

    def __init__(self, lr_scheduler: LRSchedulerCallable) -> None:
        self.lr_scheduler = lr_scheduler


START = "model: {lr_scheduler: {class_path: litengine.optim."
PIECEWISE = START + "PiecewiseLinear, init_args: {points: {0: 0.2, 0.23: 1, 1.0: 0.07}, total_steps: null}}}"
IN_EPOCHS = START + "PiecewiseLinear, init_args: {points: {0: 0.2, '1.5': 1, 5: 0}, unit: epochs}}}"
COSINE = START + "WarmupCosine, init_args: {warmup: 0.2, end: 0.01}}}"


def from_yaml(*texts: str) -> tuple[Model, str]:
    """The model that the configs describe, later ones over earlier, and the config of all as JSON."""
    parser = ArgumentParser()
    parser.add_argument("--config", action="config")
    parser.add_class_arguments(Model, "model")
    config = parser.parse_args([argument for text in texts for argument in ("--config", text)])
    return parser.instantiate(config).model, parser.dump(config, format="json")


@pytest.mark.parametrize(
    ("text", "same"),
    [
        (PIECEWISE, piecewise(points={0: 0.2, 0.23: 1, 1: 0.07}, total_steps=40)),
        (IN_EPOCHS, piecewise(points={0: 0.2, 1.5: 1, 5: 0}, unit="epochs", total_epochs=5, total_steps=40)),
        (COSINE, warmup_cosine(warmup=0.2, end=0.01, total_steps=40)),
    ],
)
def test_schedules_stand_in_a_config_and_in_what_is_saved_of_it(text, same):
    expected = rates_of(same(optimizer_of()), 40)
    model, saved = from_yaml(text)
    schedule, interval, _ = asked_for(model.lr_scheduler)
    assert interval == "step"
    assert rates_of(schedule, 40) == expected
    again, _ = from_yaml(saved)  # JSON makes strings of the positions
    assert rates_of(asked_for(again.lr_scheduler)[0], 40) == expected


def test_points_of_a_later_config_replace_those_of_an_earlier_one():
    overlay = "model: {lr_scheduler: {init_args: {points: {0: 1, 0.5: 0}}}}"
    schedule, _, _ = asked_for(from_yaml(PIECEWISE, overlay)[0].lr_scheduler)
    assert schedule.points == [(0.0, 1.0), (0.5, 0.0)]


def test_both_rules_of_muon_follow_the_schedule():
    optimizer = Muon([torch.zeros(2, 2, 2), torch.zeros(2)], lr=0.24, sgd_lr=0.5)
    schedule = PiecewiseLinear(optimizer, {0: 1, 1: 0}, total_steps=4)
    np.testing.assert_allclose(rates_of(schedule, 4), np.outer([1, 0.75, 0.5, 0.25], [0.24, 0.5]))
