"""What a run needs to go on as if it had never been interrupted, beyond what Lightning keeps."""

import random
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from litengine.training.run_directory import State, write_state


class ExactResume(Callback):
    """Keeps the state of all random generators in checkpoints, makes the loggers forget what came after the
    checkpoint, gives them the step of a checkpoint that is evaluated, and notes in the run directory whether the
    run is still to be finished."""

    def __init__(self) -> None:
        self._loaded: dict[str, Any] | None = None
        self._noted = False
        self._checkpoint_step = 0

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._checkpoint_step = checkpoint["global_step"]

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Lightning does not restore its step for a test: it would log at step 0, or at the last one of the fit
        _call_loggers(trainer, "evaluate_at", self._checkpoint_step if trainer.ckpt_path else trainer.global_step)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == "validate":
            self.on_test_start(trainer, pl_module)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._note(trainer, "running")  # its config.yaml is there by now
        _call_loggers(trainer, "evaluate_at", None)
        if self._loaded is None:
            return
        # now, and not when it was loaded: making the loaders has used random numbers since
        set_random_state(self._loaded)
        self._loaded = None
        _call_loggers(trainer, "forget_from", trainer.global_step)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._note(trainer, "finished")

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if self._noted:
            with suppress(OSError):  # on a full disk the exception says more; a run left "running" can be resumed too
                self._note(trainer, "stopped" if isinstance(exception, KeyboardInterrupt | SystemExit) else "failed")

    def state_dict(self) -> dict[str, Any]:
        return random_state()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._loaded = state_dict

    def _note(self, trainer: Trainer, state: State) -> None:
        self._noted = state == "running"  # until it is over
        if trainer.is_global_zero and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            write_state(Path(trainer.default_root_dir), state)


def _call_loggers(trainer: Trainer, method: str, step: int | None) -> None:
    for logger in trainer.loggers:
        if hasattr(logger, method):
            getattr(logger, method)(step)


def random_state() -> dict[str, Any]:
    """The state of every global generator, as tensors, numbers and lists: what `weights_only=True` loads."""
    version, numbers, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "python": [version, list(numbers), gauss],
        "numpy": [kind, torch.from_numpy(np.asarray(keys).astype(np.int64)), position, has_gauss, cached],
    }


def set_random_state(state: dict[str, Any]) -> None:
    """The inverse of `random_state`; GPUs that were not there then keep their state."""
    torch.set_rng_state(state["torch"].cpu())
    for device, generator in enumerate(state["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(generator.cpu(), device)
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    kind, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), position, has_gauss, cached))
