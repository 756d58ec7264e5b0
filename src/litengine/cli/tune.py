"""The verb `tune`: a learning rate, or a batch size, for a recipe; all options that are not its own are fit's."""

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.accelerators import CUDAAccelerator

from litengine import training
from litengine.cli.trainer import CLI
from litengine.files import relative
from litengine.terminal import print_line
from litengine.training.rate_test import RateRangeTest, draw, largest_batch


def run_verb(args: list[str]) -> None:
    """Runs a command line that begins with `tune`."""
    parser = ArgumentParser(
        "main.py tune",
        description="Find a learning rate, or the largest batch size. All options of fit may be given too.",
        allow_abbrev=False,
    )
    parser.add_argument("--find", choices=["rate", "batch_size"], default="rate", help="What to look for.")
    parser.add_argument("--steps", type=int, default=100, help="Steps of training that the rate rises over.")
    parser.add_argument("--lowest", type=float, default=1e-6, help="Rate that they begin with.")
    parser.add_argument("--highest", type=float, default=10.0, help="Rate that they end with.")
    options, rest = parser.parse_known_args(args[1:])
    TuneCLI(["fit", *rest], options)


class TuneCLI(CLI):
    """A fit's classifier and data, trained for a few steps that leave no checkpoint."""

    def __init__(self, args: list[str], options: Any) -> None:
        self.options = options
        self.test = RateRangeTest(options.steps, options.lowest, options.highest)
        super().__init__(args)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        settings = self.config_init[self.verb]["trainer"]
        quiet = {"logger": False, "enable_checkpointing": False, "enable_model_summary": False}
        length = {"max_steps": self.options.steps, "max_epochs": -1, "limit_val_batches": 0}
        seen = [training.ProgressBar()] if settings["enable_progress_bar"] is not False else []
        wanted = [self.test] if self.options.find == "rate" else []
        return Trainer(**{**settings, **quiet, **length, "callbacks": [*wanted, *seen]})

    def fit(self, **kwargs: Any) -> None:
        if self.options.find == "rate":
            self._find_rate()
        else:
            self._find_batch_size()

    def after_fit(self) -> None:
        """Nothing: there is no best checkpoint."""

    def _find_rate(self) -> None:
        self.trainer.fit(self.model, self.datamodule)
        curve = self.test.curve
        if len(curve.rates) < 10:
            raise ValueError(
                f"the loss broke after {len(curve.rates)} steps, at a rate of {self.test.lowest:.2g} or little more: "
                "begin with a smaller --lowest"
            )
        picture = Path(self.trainer.default_root_dir) / "learning_rate.png"
        draw(curve, self.config.fit.name, picture)
        print_line(f"loss against rate: {relative(picture)}")
        if curve.steepest is None:
            print_line(f"the loss never falls from {curve.rates[0]:.2g} to {curve.rates[-1]:.2g}: no rate to suggest")
            return
        schedule = self.config.fit.model.get("lr_scheduler")
        highest = schedule is not None and "max_lr" in schedule.get("init_args", {})  # which overrules the optimizer's
        key = "model.lr_scheduler.init_args.max_lr" if highest else "model.optimizer.init_args.lr"
        print_line(f"steepest at {curve.steepest:.2g}; paste: --{key} {curve.steepest:.2g}")

    def _find_batch_size(self) -> None:
        if not CUDAAccelerator.is_available():
            raise ValueError("tune --find batch_size looks for what fits into a GPU, and there is none here")
        train = self.datamodule
        start = int(self.config.fit.data.batch_size)
        train.prepare_data()
        train.setup("fit")
        size = largest_batch(self.trainer, self.model, train, start, len(train.subset("train").indices))
        print_line(f"largest batch that fits: {size:,}; paste: --data.batch_size {size}")
