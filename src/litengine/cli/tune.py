"""The verb `tune`: a learning rate, or a batch size, for a recipe. It takes all options of fit too."""

from pathlib import Path
from typing import Any, Literal

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.accelerators import CUDAAccelerator
from lightning.pytorch.cli import LightningArgumentParser

from litengine import training
from litengine.cli.trainer import CLI
from litengine.files import relative
from litengine.terminal import print_line
from litengine.training.rate_test import RateRangeTest, draw, largest_batch


class TuneCLI(CLI):
    """A fit's classifier and data, trained for a few steps that leave no checkpoint."""

    leaves_run = False

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        super().add_arguments_to_parser(parser)
        find = Literal["rate", "batch_size"]
        parser.add_argument("--find", type=find, default="rate", help="What to look for.")
        parser.add_argument("--steps", type=int, default=100, help="Steps of training that the rate rises over.")
        parser.add_argument("--lowest", type=float, default=1e-6, help="Rate that they begin with.")
        parser.add_argument("--highest", type=float, default=10.0, help="Rate that they end with.")

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        given = self.config.fit
        self.range_test = RateRangeTest(given.steps, given.lowest, given.highest)
        callbacks: list[Callback] = [self.range_test] if given.find == "rate" else []
        if given.trainer.enable_progress_bar is not False:
            callbacks.append(training.ProgressBar())
        quiet = {"logger": False, "enable_checkpointing": False, "enable_model_summary": False}
        length = {"max_steps": given.steps, "max_epochs": -1, "limit_val_batches": 0}
        return Trainer(**{**self.config_init.fit.trainer, **quiet, **length, "callbacks": callbacks})

    def fit(self, **kwargs: Any) -> None:
        if self.config.fit.find == "rate":
            self._find_rate()
        else:
            self._find_batch_size()

    def _find_rate(self) -> None:
        self.trainer.fit(self.model, self.datamodule)
        curve = self.range_test.curve
        if len(curve.rates) < 10:
            raise ValueError(
                f"the loss broke after {len(curve.rates)} steps, at a rate of {self.range_test.lowest:.2g} or little "
                "more: begin with a smaller --lowest"
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
            raise ValueError(
                "tune --find batch_size looks for the largest batch that fits into a GPU, and this machine has no GPU"
            )
        self.datamodule.prepare_data()
        self.datamodule.setup("fit")
        images = len(self.datamodule.subset("train").indices)
        size = largest_batch(self.trainer, self.model, self.datamodule, self.config.fit.data.batch_size, images)
        print_line(f"largest batch that fits: {size:,}; paste: --data.batch_size {size}")
