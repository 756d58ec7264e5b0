"""SIGTERM, SIGUSR1 and Ctrl-C: finish the batch, save, exit."""

import os
import signal
import threading
from types import FrameType
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from litengine.distributed import largest
from litengine.files import relative
from litengine.terminal import print_line
from litengine.training.checkpoints import Checkpoints, can_resume_after

# SLURM sends SIGUSR1 when the time of a job is nearly up; Windows does not have it.
SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGUSR1") if hasattr(signal, name)]


class StopOnSignal(Checkpoint):
    """Ends a fit on a signal so that it can be resumed exactly, with exit code 128 + signal: 143 for SIGTERM, 130 for
    Ctrl-C, 138 for SIGUSR1. In a W&B sweep SIGTERM is the agent's early stopping, which ends with 0.

    The fit stops at the next place from which it resumes exactly: after a batch, after a validation in mid-epoch, or at
    the end of the epoch. A second signal ends the process at once; the last checkpoint stays intact. If any process
    gets a signal, all stop; rank 0 returns the exit code.

    It is a `Checkpoint` because Lightning calls these after all other callbacks, and comes last among them.
    """

    def __init__(self) -> None:
        self._received: int | None = None
        self._before: dict[int, Any] = {}
        self._announced = False

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # In place of Lightning's handlers, which are set after `on_fit_start`: its SIGTERM may wait for ever for other
        # processes, and exits with 0; its SIGUSR1 (SLURM) saves in the middle of a batch, under a name of its own. Only
        # the main thread may set handlers.
        if not self._before and threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._on_signal) for number in SIGNALS}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.on_sanity_check_start(trainer, pl_module)  # there may have been no sanity check

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if (number := self._asked(trainer)) and can_resume_after(trainer, batch_idx):
            self._leave(trainer, number, save=True)

    def on_validation_batch_end(self, *args: Any) -> None:
        if self._received and not self._announced:
            print_line("stopping when this validation is over; the same signal again stops at once")
            self._announced = True

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        in_mid_epoch = trainer.state.fn == "fit" and not trainer.sanity_checking and not trainer.is_last_batch
        if in_mid_epoch and (number := self._asked(trainer)):
            self._leave(trainer, number, save=True)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if number := self._asked(trainer):
            self._leave(trainer, number, save=False)  # the end of the epoch before is saved

    def _asked(self, trainer: Trainer) -> int:
        """The signal that any process got, or 0: all must stop at the same batch."""
        return largest(self._received or 0, trainer.strategy.root_device)

    def _leave(self, trainer: Trainer, number: int, save: bool) -> None:
        for callback in trainer.checkpoint_callbacks if save else ():
            if isinstance(callback, Checkpoints):
                callback.save(trainer)
        print_line(f"stopped; to resume: python main.py fit --resume last (or {relative(trainer.default_root_dir)})")
        # The agent counts runs that end with another code than 0 as failures, and ends after some of them.
        early_stopped = number == signal.SIGTERM and "WANDB_SWEEP_ID" in os.environ
        # Lightning kills the first process some seconds after one that it started has ended with an error.
        raise SystemExit(128 + number if trainer.is_global_zero and not early_stopped else 0)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._received is not None:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self._received = number
