"""SIGTERM, SIGUSR1 and Ctrl-C: finish the batch, save, leave."""

import os
import signal
import threading
from types import FrameType
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from litengine.distributed import largest
from litengine.terminal import print_line
from litengine.training.checkpoints import Checkpoints, can_resume_after

# SIGUSR1 is how SLURM says that a job's time is nearly up; Windows has none
SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGUSR1") if hasattr(signal, name)]


class StopOnSignal(Checkpoint):
    """Ends a fit that is asked to stop so that it can be resumed exactly, with exit code 128 + signal: 143 for SIGTERM,
    130 for Ctrl-C, 138 for SIGUSR1.

    It stops after the batch (the last one of those whose gradients are accumulated), or during validation after the
    epoch, which can only be resumed before or after its validation. A second signal ends the process at once; the
    last checkpoint stays whole. Of several processes all stop, whichever was asked; the first one's exit code tells it.

    It is a `Checkpoint` because Lightning calls these after all others: what it saves has every update of the batch.
    """

    def __init__(self) -> None:
        self._received: int | None = None
        self._before: dict[int, Any] = {}
        self._told = False

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._listen()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._listen()

    def _listen(self) -> None:
        # In place of Lightning's handlers, which are set after `on_fit_start`: its SIGTERM may wait for ever for other
        # processes, and exits with 0; its SIGUSR1 (SLURM) saves in the middle of a batch, under a name of its own. Only
        # the main thread may set handlers, and hears signals.
        if not self._before and threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._on_signal) for number in SIGNALS}

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if (number := self._asked(trainer)) and can_resume_after(trainer, batch_idx):
            for callback in trainer.checkpoint_callbacks:
                if isinstance(callback, Checkpoints):
                    callback.save_last(trainer)
            self._leave(trainer, number)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if self._received and not self._told:
            print_line("stopping when this validation is over; the same signal again stops at once")
            self._told = True

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if number := self._asked(trainer):  # during the validation of the epoch before, whose end was saved
            self._leave(trainer, number)

    def _asked(self, trainer: Trainer) -> int:
        """The signal that any process was asked to stop by, or 0: all must stop at the same batch."""
        return largest(self._received or 0, trainer.strategy.root_device)

    def _leave(self, trainer: Trainer, number: int) -> None:
        print_line("stopped; go on with: python main.py fit --resume last")
        # Lightning kills the first process some seconds after one that it started has ended with an error
        raise SystemExit(128 + number if trainer.is_global_zero else 0)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._received is not None:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self._received = number
