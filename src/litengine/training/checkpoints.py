"""`best.ckpt` and `last.ckpt` of a run, under its `checkpoints/`.

Not Lightning's ModelCheckpoint, whose `save_last` writes only when a best one was written and whose state is dropped
when its directory or triggers change: two files and one rule need less.
"""

import math
import time
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from litengine.distributed import largest
from litengine.files import link


def can_resume_after(trainer: Trainer, batch_idx: int) -> bool:
    """Whether a fit can be resumed exactly from a checkpoint written after this batch.

    Not after the last one of an epoch: its validation would be skipped. Not between two batches whose gradients are
    accumulated: no checkpoint holds gradients.
    """
    return not trainer.is_last_batch and (batch_idx + 1) % trainer.accumulate_grad_batches == 0


class Checkpoints(Checkpoint):
    """Writes `last.ckpt` after every epoch and in between, `best.ckpt` when the monitored metric improves.

    `best.ckpt` in the working directory is made a link to this run's best one; without validation images there is no
    best, and it links to the last.

    Args:
        monitor: the metric that decides which is best.
        mode: whether more (`max`) or less (`min`) is better.
        every_n_minutes: `last.ckpt` is at most this old, in minutes, however long an epoch takes.
        every_n_steps: and at most this many steps, where given.
    """

    def __init__(
        self,
        monitor: str = "val/acc",
        mode: Literal["max", "min"] = "max",
        every_n_minutes: float = 10.0,
        every_n_steps: int | None = None,
    ) -> None:
        self.monitor = monitor
        self.mode = mode
        self.every_n_minutes = every_n_minutes
        self.every_n_steps = every_n_steps
        self.best_score: float | None = None
        self.best_epoch: int | None = None
        self._saved_at = math.inf

    def directory(self, trainer: Trainer) -> Path:
        return Path(trainer.default_root_dir) / "checkpoints"

    def best_path(self, trainer: Trainer) -> Path | None:
        """The checkpoint to test: the best one, or without validation the last; None where none was written."""
        name = "last.ckpt" if self.best_score is None else "best.ckpt"
        path = self.directory(trainer) / name
        return path if path.is_file() else None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._saved_at = time.monotonic()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not can_resume_after(trainer, batch_idx):
            return
        # all save together, as soon as it is due by the clock of one
        due = largest(time.monotonic() - self._saved_at >= 60 * self.every_n_minutes, trainer.strategy.root_device)
        if due or (self.every_n_steps and trainer.global_step % self.every_n_steps == 0):
            self.save_last(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        if self.monitor not in trainer.callback_metrics:
            known = ", ".join(sorted(trainer.callback_metrics))
            raise ValueError(f"checkpoints.monitor {self.monitor!r} is not logged in validation: there are {known}")
        score = float(trainer.callback_metrics[self.monitor])
        # of equals the newer: few validation images make ties, and later weights have seen more, at a lower rate
        as_good = self.best_score is None or (
            score >= self.best_score if self.mode == "max" else score <= self.best_score
        )
        if as_good and math.isfinite(score):
            self.best_score, self.best_epoch = score, trainer.current_epoch
            self._save(trainer, "best.ckpt")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.save_last(trainer)

    def save_last(self, trainer: Trainer) -> None:
        self._save(trainer, "last.ckpt")

    def state_dict(self) -> dict[str, Any]:
        return {"best_score": self.best_score, "best_epoch": self.best_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best_score, self.best_epoch = state_dict["best_score"], state_dict["best_epoch"]

    def _save(self, trainer: Trainer, name: str) -> None:
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        trainer.save_checkpoint(self.directory(trainer) / name, weights_only=False)
        self._saved_at = time.monotonic()
        best = self.best_path(trainer)
        if trainer.is_global_zero and best is not None:
            link(best, "best.ckpt")
