"""Learning-rate schedules that move every step, with positions given as fractions of the training or in epochs."""

import functools
import inspect
import itertools
import math
from collections.abc import Callable
from typing import Any, Literal

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

Unit = Literal["fraction", "epochs"]


class _Factors(LRScheduler):
    """Multiplies the initial rate of every group by the same factor, a function of the step."""

    def _set_length(self, total_steps: int | None, unit: Unit, total_epochs: float | None) -> None:
        """Sets `total_steps`, and `length`, which is that of the training in the unit of positions."""
        name = type(self).__name__
        if unit not in ("fraction", "epochs"):
            raise ValueError(f"{name}: unit is {unit!r}, 'fraction' or 'epochs' is needed")
        if total_steps is None or total_steps < 1:
            raise ValueError(f"{name}: total_steps is {total_steps}, the steps of the training, 1 or more, are needed")
        if unit == "epochs" and not (total_epochs and total_epochs > 0):
            raise ValueError(f"{name}: total_epochs is {total_epochs}, positions in epochs need those of the training")
        self.total_steps = total_steps
        self.length = 1.0 if unit == "fraction" else total_epochs or 0.0

    def get_lr(self) -> list[Any]:
        factor = self._factor(self.last_epoch)
        return [rate * factor for rate in self.base_lrs]

    def _factor(self, step: int) -> float:
        raise NotImplementedError


class PiecewiseLinear(_Factors):
    """The learning rate follows straight lines between points, the same for every group relative to its own rate.

    `{0: 0.2, 0.23: 1, 1: 0.07}` starts at a fifth of the optimizer's rate, reaches all of it after 23 % of the
    training and falls to 7 %. Before the first point and after the last the rate stays. Position 1 is the end of the
    training: the last of n steps is at 1 - 1/n, so that a rate that falls to 0 wastes no step.

    Args:
        points: position to factor of the initial rate; positions rising, 0 or more, and at most 1 as fractions. Those
            in epochs may lie beyond a training that is cut short.
        total_steps: steps of the training; in a config null, for those of the fit.
        unit: whether positions are fractions of the training or epochs.
        total_epochs: epochs that `total_steps` make; in a config null, for those of the fit. Used with epochs only.

    Raises:
        ValueError: for points out of order or range, or a length that is missing.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        points: dict[float, float],
        total_steps: int | None = None,
        unit: Unit = "fraction",
        total_epochs: float | None = None,
    ) -> None:
        self._set_length(total_steps, unit, total_epochs)
        # plain floats: YAML and JSON turn keys into integers or strings
        self.points = [(float(position), float(factor)) for position, factor in points.items()]
        positions, factors = [position for position, _ in self.points], [factor for _, factor in self.points]
        if not positions or any(later <= earlier for earlier, later in itertools.pairwise(positions)):
            raise ValueError(
                f"PiecewiseLinear: the positions of points are {positions}, rising ones are needed: "
                "write points as {position: factor}"
            )
        if not all(0 <= position <= (1 if unit == "fraction" else math.inf) for position in positions):
            raise ValueError(
                f"PiecewiseLinear: the positions of points are {positions}: give fractions of the training, 0 to 1, or "
                "unit: epochs and epochs of 0 or more"
            )
        if not all(0 <= factor < math.inf for factor in factors):
            raise ValueError(f"PiecewiseLinear: the factors of points are {factors}, 0 or more is needed")
        super().__init__(optimizer)

    def _factor(self, step: int) -> float:
        position = step * self.length / self.total_steps
        start, low = self.points[0]
        if position <= start:
            return low
        for end, high in self.points[1:]:
            if position <= end:
                return low + (high - low) * (position - start) / (end - start)
            start, low = end, high
        return low


class WarmupCosine(_Factors):
    """The learning rate rises in a straight line during the warm-up, then falls along half a cosine.

    With w steps of warm-up out of n, step i (from 0) has (i + 1) / (w + 1) of the optimizer's rate for i <= w; the
    last step, n - 1, has `end` of it.

    Args:
        warmup: length of the rise, 0 or more, and below 1 as a fraction.
        end: part of the initial rate that the last step has.
        total_steps: steps of the training; in a config null, for those of the fit.
        unit: whether `warmup` is a fraction of the training or in epochs.
        total_epochs: epochs that `total_steps` make; in a config null, for those of the fit. Used with epochs only.

    Raises:
        ValueError: for a setting out of range, or a length that is missing.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        warmup: float = 0.05,
        end: float = 0.0,
        total_steps: int | None = None,
        unit: Unit = "fraction",
        total_epochs: float | None = None,
    ) -> None:
        self._set_length(total_steps, unit, total_epochs)
        if not 0 <= warmup < (1 if unit == "fraction" else math.inf):
            raise ValueError(
                f"WarmupCosine: warmup is {warmup}: give a fraction of the training, 0 to below 1, or unit: epochs and "
                "epochs of 0 or more"
            )
        if not 0 <= end < math.inf:
            raise ValueError(f"WarmupCosine: end is {end}, a factor of 0 or more is needed")
        self.warmup_steps = round(warmup / self.length * self.total_steps)
        self.end = end
        super().__init__(optimizer)

    def _factor(self, step: int) -> float:
        if step <= self.warmup_steps:
            return (step + 1) / (self.warmup_steps + 1)
        # at most 1: a schedule may be asked for steps after the last
        progress = min(1.0, (step - self.warmup_steps) / max(1, self.total_steps - 1 - self.warmup_steps))
        return self.end + (1 - self.end) * (1 + math.cos(math.pi * progress)) / 2


class Plateau:
    """A ReduceLROnPlateau with the metric that it watches: its `monitor`; by default `val/loss`, or `train/loss` if
    nothing is validated.

    Raises:
        ValueError: if that is not a metric of the training, or of a validation that takes place.
    """

    def __init__(self, schedule: ReduceLROnPlateau, validates: bool) -> None:
        self.schedule = schedule
        given = getattr(schedule, "monitor", None)  # of lightning.pytorch.cli.ReduceLROnPlateau
        self.monitor = str(given or ("val/loss" if validates else "train/loss"))
        if not self.monitor.startswith(("train/", "val/")):
            raise ValueError(f"ReduceLROnPlateau watches {given}: choose a metric such as val/loss or train/loss")
        if self.monitor.startswith("val/") and not validates:
            raise ValueError(
                f"ReduceLROnPlateau watches {given}, but nothing is validated: let it watch train/loss, or validate"
            )

    def step(self, split: str, values: dict[str, Any]) -> None:
        """Moves at the end of an epoch, if it watches a metric of this split.

        Raises:
            ValueError: if the split has no such metric.
        """
        if self.monitor in values:
            self.schedule.step(values[self.monitor])
        elif self.monitor.startswith(f"{split}/"):
            raise ValueError(f"ReduceLROnPlateau watches {self.monitor!r}, but there are {', '.join(values)}")


def epochs_of_fit(trainer: Any) -> int:
    """The epochs that a Trainer trains; those of its `max_steps` if it has no `max_epochs`."""
    if trainer.max_epochs is not None and trainer.max_epochs >= 0:
        return int(trainer.max_epochs)
    trainer.fit_loop.setup_data()  # counts the batches
    batches = trainer.estimated_stepping_batches * trainer.accumulate_grad_batches
    epochs: int = math.ceil(batches / trainer.num_training_batches)
    return epochs


def make_schedule(
    factory: Callable[..., LRScheduler | ReduceLROnPlateau],
    optimizer: Optimizer,
    steps: Callable[[], int],
    epochs: Callable[[], float],
) -> tuple[LRScheduler | ReduceLROnPlateau, Literal["step", "epoch"]]:
    """The schedule, with the lengths that were not given, and how often it is stepped.

    Args:
        factory: called with the optimizer; as the command line makes it, or a class or `functools.partial` of one.
        steps, epochs: of the whole fit; called only if the schedule needs them.
    """
    given = dict(factory.keywords) if isinstance(factory, functools.partial) else {}
    accepted = {*given, *inspect.signature(factory).parameters}
    lengths: dict[str, Callable[[], float]] = {"total_steps": steps, "T_max": epochs, "total_epochs": epochs}
    filled_in: dict[str, Any] = {n: length() for n, length in lengths.items() if n in accepted and not given.get(n)}
    scales = [group.get("lr_scale", 1.0) for group in optimizer.param_groups]  # of `parameter_groups`
    for name in {"max_lr", "base_lr"} & set(given):  # of OneCycleLR and CyclicLR: they overwrite the groups' rates
        if isinstance(given[name], int | float):
            filled_in[name] = [given[name] * scale for scale in scales]
    return factory(optimizer, **filled_in), "step" if "total_steps" in accepted else "epoch"


def check_length(schedule: LRScheduler, state: dict[str, Any]) -> None:
    """Raises ValueError if a resumed run has a schedule whose shape was fixed for another length."""
    for name, unit in (("total_steps", "steps"), ("T_max", "epochs")):
        ours, theirs = getattr(schedule, name, None), state.get(name)
        if ours != theirs:
            raise ValueError(
                f"{type(schedule).__name__} of this run was made for {theirs} {unit} and cannot continue for {ours}: "
                "resume it with the same number of epochs and the same batches, or start a new run"
            )
