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
from litengine.files import relative
from litengine.training.checkpoint_files import BEST, LAST, verify
from litengine.training.hooks import call_loggers
from litengine.training.run_directory import link_best


def can_resume_after(trainer: Trainer, batch_idx: int) -> bool:
    """Whether a fit resumes exactly from a checkpoint written after this batch.

    Not before a validation, which would be skipped; not between two batches whose gradients are accumulated, because
    no checkpoint holds gradients; not if the end of the epoch is next.
    """
    ends = trainer.is_last_batch or trainer.should_stop or trainer.global_step == trainer.max_steps
    if ends or (batch_idx + 1) % trainer.accumulate_grad_batches:
        return False
    every = trainer.check_val_every_n_epoch
    if not trainer.enable_validation or (every and (trainer.current_epoch + 1) % every):
        return True
    batches = trainer.fit_loop.epoch_loop.total_batch_idx if every is None else batch_idx
    return (batches + 1) % (trainer.val_check_batch or 1) != 0


def wrong_direction(model: Any, watcher: str, monitor: str, mode: str) -> str:
    """What to change if a watcher of a metric, with a `mode` of `max` or `min`, takes the worse values for better."""
    more = model.higher_is_better(monitor)
    if more in (None, mode == "max"):
        return ""
    return f"{watcher} watches {monitor} with mode {mode}: set {'max' if more else 'min'}"


class Checkpoints(Checkpoint):
    """Writes `last.ckpt` after every epoch and in between, `best.ckpt` when the monitored metric improves.

    Args:
        monitor: the metric that decides which is best.
        mode: whether more (`max`) or less (`min`) is better; null follows the metric.
        every_n_minutes: `last.ckpt` is at most this old, in minutes, however long an epoch takes.
        every_n_steps: and at most this many steps, if given.
        link_best: whether `best.ckpt` in the working directory becomes a link to this run's best checkpoint (without
            validation the last), unless it is that of a run that was started later.
    """

    def __init__(
        self,
        monitor: str = "val/acc",
        mode: Literal["max", "min"] | None = None,
        every_n_minutes: float = 10.0,
        every_n_steps: int | None = None,
        link_best: bool = True,
    ) -> None:
        self.monitor = monitor
        self.mode = mode
        self.every_n_minutes = every_n_minutes
        self.every_n_steps = every_n_steps
        self.link_best = link_best
        self.best_score: float | None = None
        self.best_epoch: int | None = None
        self._saved_at = math.inf
        self._resumed_after_validation = False
        self._best_is_due = False

    def directory(self, trainer: Trainer) -> Path:
        return Path(trainer.default_root_dir) / "checkpoints"

    def best_path(self, trainer: Trainer) -> Path | None:
        """The checkpoint to test: the best one, or without validation the last; None if none was written."""
        path = self.directory(trainer) / (LAST if self.best_score is None else BEST)
        return path if path.is_file() else None

    def on_fit_start(self, trainer: Trainer, pl_module: Any) -> None:
        if self.mode is None:
            known = getattr(pl_module, "higher_is_better", None)
            direction = known and known(self.monitor)
            if direction is None:
                raise ValueError(
                    f"checkpoints.monitor is {self.monitor!r}, not in model.metrics, and it is unknown whether "
                    "more of it is better: add it there, or --checkpoints.mode max (or min) if your code logs it"
                )
            self.mode = "max" if direction else "min"
        call_loggers(trainer, "summarize", self.monitor, self.mode)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._saved_at = time.monotonic()
        best, resumed_from = self.directory(trainer) / BEST, Path(trainer.ckpt_path or "")
        resumed_here = resumed_from.resolve().parent == best.parent.resolve()
        if self.best_score is not None and resumed_here and not self._resumed_after_validation:
            _check_best(best, resumed_from)
        elif self.best_score is not None and not best.is_file():
            self.best_score = self.best_epoch = None  # the checkpoint is of a run in another directory
        if self._resumed_after_validation:  # it may be of another callback, which saved before this one looked
            self._keep_best(trainer)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if path := self.best_path(trainer):
            call_loggers(trainer, "log_checkpoint", path, True, True)

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        # the quickest question first; all processes answer the second one together, so it is not asked within a step
        steps = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if steps and self._is_due(trainer) and can_resume_after(trainer, batch_idx):
            self.save(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        self._keep_best(trainer)
        if not (trainer.is_last_batch or self._best_is_due) and self._is_due(trainer):
            self.save(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._best_is_due:
            self._best_is_due = False
            self.save(trainer, BEST)
        self.save(trainer)

    def _is_due(self, trainer: Trainer) -> bool:
        # all processes save together, as soon as the clock of one says so
        due = largest(time.monotonic() - self._saved_at >= 60 * self.every_n_minutes, trainer.strategy.root_device)
        return bool(due or (self.every_n_steps and trainer.global_step % self.every_n_steps == 0))

    def _keep_best(self, trainer: Trainer) -> None:
        if self.monitor not in trainer.callback_metrics:
            known = ", ".join(sorted(trainer.callback_metrics))
            raise ValueError(f"checkpoints.monitor {self.monitor!r} is not logged in validation: there are {known}")
        score = float(trainer.callback_metrics[self.monitor])
        sign = 1 if self.mode == "max" else -1
        # On a tie the newer one is kept: few validation images make ties, and later weights have seen more.
        if math.isfinite(score) and (self.best_score is None or sign * score >= sign * self.best_score):
            self.best_score, self.best_epoch = score, trainer.current_epoch
            # Lightning resumes nothing after `max_steps`, not even the end of the epoch, which is next.
            self._best_is_due = trainer.global_step == trainer.max_steps
            if not self._best_is_due:
                self.save(trainer, BEST)

    def save(self, trainer: Trainer, name: str = LAST) -> None:
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        path = self.directory(trainer) / name
        trainer.save_checkpoint(path, weights_only=False)
        self._saved_at = time.monotonic()
        best = self.best_path(trainer)
        if trainer.is_global_zero and self.link_best and best is not None:
            link_best(best)
        call_loggers(trainer, "log_checkpoint", path, name == BEST)

    def state_dict(self) -> dict[str, Any]:
        return {"best_score": self.best_score, "best_epoch": self.best_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best_score, self.best_epoch = state_dict["best_score"], state_dict["best_epoch"]

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["after_validation"] = trainer.validating

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._resumed_after_validation = checkpoint.get("after_validation", False)


def _check_best(best: Path, resumed_from: Path) -> None:
    try:
        verify(best)
    except Exception as error:  # zipfile raises many kinds
        raise ValueError(
            f"{relative(best)} is missing or damaged, and a resumed fit cannot write it again: begin a new run with "
            f"--ckpt_path {relative(resumed_from)}, which chooses the best of the epochs to come"
        ) from error
