"""The learning-rate range test: loss against a rising learning rate."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

SMOOTHING = 0.9  # of the loss, over steps
BROKEN = 4.0  # a loss this many times the lowest ends the test


@dataclass
class Curve:
    """Loss against learning rate: an entry for each step, with rising rates."""

    rates: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)  # smoothed

    @property
    def steepest(self) -> float | None:
        """The rate at which the loss falls fastest; None if it never falls.

        The first tenth of the test and the steps after the lowest loss are ignored, because they are noisy.
        """
        lowest = min(range(len(self.losses)), key=self.losses.__getitem__, default=0)
        places = range(max(1, len(self.losses) // 10), lowest)
        falls = {place: self.losses[place + 1] - self.losses[place - 1] for place in places}
        place = min(falls, key=falls.__getitem__, default=None)
        return self.rates[place] if place is not None and falls[place] < 0 else None


class RateRangeTest(Callback):
    """Raises the learning rate by the same factor at every step, in place of the model's schedule, and records the
    loss. It ends early if the loss diverges. Source: Smith, "Cyclical Learning Rates for Training Neural Networks"
    (2017).

    Lightning's finder gives all parameter groups one rate. Here each group keeps its ratio to the first one, so that
    Muon and its SGD groups are tested as they are trained.

    Args:
        lowest, highest: learning rate of the first parameter group.
    """

    def __init__(self, steps: int, lowest: float, highest: float) -> None:
        if steps < 10:
            raise ValueError(f"tune: --steps is {steps}: choose 10 or more for a curve")
        if not 0 < lowest < highest:
            raise ValueError(
                f"tune: --lowest is {lowest} and --highest {highest}: choose a --lowest above 0 and below --highest"
            )
        self.steps = steps
        self.lowest = lowest
        self.highest = highest
        self.curve = Curve()
        self._mean = 0.0

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        pl_module.has_schedule = False  # of ClassifierModule: `with_schedule` makes none

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        rates = [float(group["lr"]) for group in trainer.optimizers[0].param_groups]
        self._ratios = [rate / rates[0] for rate in rates]

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        done = trainer.global_step / (self.steps - 1)
        rate = self.lowest * (self.highest / self.lowest) ** done
        for group, ratio in zip(trainer.optimizers[0].param_groups, self._ratios, strict=True):
            group["lr"] = rate * ratio
        self._rate = rate

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        loss = float(outputs["loss"]) * trainer.accumulate_grad_batches
        self._mean = SMOOTHING * self._mean + (1 - SMOOTHING) * loss
        smoothed = self._mean / (1 - SMOOTHING ** (len(self.curve.rates) + 1))
        if not math.isfinite(loss) or smoothed > BROKEN * min(self.curve.losses, default=math.inf):
            trainer.should_stop = True
            return
        self.curve.rates.append(self._rate)
        self.curve.losses.append(smoothed)


def draw(curve: Curve, name: str, path: Path) -> None:
    """The curve as a PNG, with the suggested rate in it."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    axes.plot(curve.rates, curve.losses)
    if curve.steepest is not None:
        loss = curve.losses[curve.rates.index(curve.steepest)]
        axes.plot(curve.steepest, loss, "o", color="tab:red", label=f"steepest: {curve.steepest:.2g}")
        axes.legend()
    axes.set(xscale="log", xlabel="learning rate", ylabel="training loss (smoothed)")
    axes.set_title(f"{name}: loss against rate")
    axes.grid(alpha=0.3)
    figure.savefig(path)


def largest_batch(trainer: Trainer, model: LightningModule, data: Any, start: int, most: int) -> int:
    """The largest batch size, of doublings of `start`, that three training steps fit into the memory of the GPU."""
    from lightning.pytorch.tuner.tuning import Tuner

    found = Tuner(trainer).scale_batch_size(model, datamodule=data, init_val=start, max_val=most, max_trials=20)
    torch.cuda.empty_cache()
    return int(found or start)
