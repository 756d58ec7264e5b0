"""What a fit needs beyond Lightning's checkpoints to continue as if it had never been interrupted."""

import math
import random
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer, callbacks
from torch import nn

from litengine.terminal import print_line
from litengine.training import run_directory
from litengine.training.checkpoints import Checkpoints
from litengine.training.hooks import call_loggers

OWN_CHECKPOINTS = "leave it out: `checkpoints.every_n_steps` and `every_n_minutes` write where a fit resumes exactly"
UNSUPPORTED: dict[type[Callback], str] = {
    callbacks.StochasticWeightAveraging: "use lightning.pytorch.callbacks.EMAWeightAveraging",
    callbacks.ModelPruning: "prune the network before or after the fit",
    callbacks.LearningRateFinder: "run `tune` before the fit",
    callbacks.BatchSizeFinder: "run `tune` before the fit",
    callbacks.OnExceptionCheckpoint: OWN_CHECKPOINTS,
}


class ExactResume(Callback):
    """Keeps in checkpoints what Lightning leaves out, refuses settings that cannot resume exactly, and notes in the run
    directory how far the run is. It comes after the callbacks of the user."""

    def __init__(self) -> None:
        self._loaded: dict[str, Any] | None = None
        self._stops = False
        self._begun = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        for callback in trainer.callbacks if stage == "fit" else ():  # type: ignore[attr-defined]
            _check(callback)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        _check_validation(trainer)
        state = run_directory.read_state(Path(trainer.default_root_dir))
        begun_before = self._loaded is not None or state not in (None, "starting")
        self._note(trainer, "running")
        self._begun = True
        for scheduler in _accumulation_schedulers(trainer):  # it acts at the start of an epoch only
            trainer.accumulate_grad_batches = scheduler.get_accumulate_grad_batches(trainer.current_epoch)
        if self._loaded is not None:
            self._restore(self._loaded, trainer, pl_module)
            self._loaded = None
        if begun_before:
            call_loggers(trainer, "forget_from", trainer.global_step)

    def _restore(self, state: dict[str, Any], trainer: Trainer, module: LightningModule) -> None:
        # Not earlier: making the loaders has used random numbers since the checkpoint was loaded.
        set_random_state(state)
        trainer.callback_metrics.update(state["metrics"])
        for name, parameter in module.named_parameters():
            parameter.requires_grad_(name not in state["frozen"])
        for name, norm in _batch_norms(module):
            norm.track_running_stats = name not in state["untracked"]  # type: ignore[assignment]
        self._stops = state["stops"] == "after this epoch"
        trainer.should_stop = state["stops"] == "now"
        if state["epoch_ended"]:  # with max_steps, Lightning would end the same epoch again
            trainer.fit_loop.epoch_loop.restarting = False

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.should_stop |= self._stops

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        loops = checkpoint["loops"]["fit_loop"]
        epochs = loops["epoch_progress"]
        epoch_ended = bool(epochs["current"]["processed"] > epochs["current"]["completed"])
        for count in epochs.values() if epoch_ended else ():
            count["completed"] = count["processed"]
        stops = "now" if trainer.should_stop else ""
        enough_epochs = epochs["current"]["processed"] >= (trainer.min_epochs or 0)
        enough_steps = trainer.global_step >= (trainer.min_steps or 0)
        if trainer.should_stop and trainer.validating and enough_epochs and enough_steps:
            # Lightning restores no request to stop. After a validation nothing but the end of the epoch is left.
            stops = "after this epoch"
            loops["epoch_loop.batch_progress"]["is_last_batch"] = True
        checkpoint["resume"] = random_state() | {
            "epoch_ended": epoch_ended,
            "stops": stops,
            "metrics": {name: value.detach().cpu() for name, value in trainer.callback_metrics.items()},
            "frozen": [name for name, parameter in pl_module.named_parameters() if not parameter.requires_grad],
            "untracked": [name for name, norm in _batch_norms(pl_module) if not norm.track_running_stats],
        }

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._loaded = checkpoint.get("resume")
        for callback in trainer.checkpoint_callbacks:
            if isinstance(callback, callbacks.ModelCheckpoint) and callback.state_key in checkpoint["callbacks"]:
                callback.current_score = checkpoint["callbacks"][callback.state_key]["current_score"]

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._note(trainer, "finished")
        self._begun = False

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        asked = isinstance(exception, KeyboardInterrupt | SystemExit)
        with suppress(OSError):  # on a full disk the exception says more; a run left "running" can be resumed too
            if self._begun:
                self._note(trainer, "stopped" if asked else "failed")
            elif not asked and trainer.is_global_zero:
                run_directory.discard(Path(trainer.default_root_dir))

    def _note(self, trainer: Trainer, state: run_directory.State) -> None:
        if not trainer.is_global_zero or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        directory = Path(trainer.default_root_dir)
        # the direction of the monitored metric, for a study, which cannot ask the metric
        modes = [each.mode for each in trainer.checkpoint_callbacks if isinstance(each, Checkpoints)]
        run_directory.write_state(directory, state, mode=next(iter(modes), None))
        if state != "running":
            run_directory.disown(directory)


def _check(callback: Callback) -> None:
    """Raises ValueError for a callback with which a fit cannot resume exactly; names one whose state is not saved."""
    name = type(callback).__name__
    for kind, remedy in UNSUPPORTED.items():
        if isinstance(callback, kind):
            raise ValueError(f"a fit with the callback {name} cannot be resumed exactly: {remedy}")
    if isinstance(callback, callbacks.ModelCheckpoint):
        by_epoch = "'every_n_train_steps': 0" in callback.state_key and "_interval': None" in callback.state_key
        if callback.save_on_exception or not by_epoch:
            raise ValueError(
                f"{name} with every_n_train_steps, train_time_interval or save_on_exception saves where a fit cannot "
                f"resume exactly: {OWN_CHECKPOINTS}; or give it every_n_epochs"
            )
    saves = type(callback).state_dict is not Callback.state_dict
    saves |= type(callback).on_save_checkpoint is not Callback.on_save_checkpoint
    known = type(callback).__module__.startswith(("litengine.", "lightning."))  # the others of Lightning have no state
    own = vars(callback).keys() - vars(Callback).keys() - {"log", "log_dict"}  # the last two are set by Lightning
    if own and not (saves or known):
        print_line(f"{name} has no state_dict: its state is not restored when the fit is resumed")


def _check_validation(trainer: Trainer) -> None:
    """Raises ValueError if a validation would come at a moment that no checkpoint can hold."""
    if not trainer.enable_validation or trainer.val_check_batch == math.inf:
        return
    if trainer.val_check_batch is None:
        raise ValueError(
            "trainer.val_check_interval is a time, and a resumed fit would validate elsewhere: give a number of "
            "batches, or a fraction of an epoch"
        )
    interval, batches = int(trainer.val_check_batch), int(trainer.num_training_batches)
    across_epochs = trainer.check_val_every_n_epoch is None
    ends = range(interval, batches * interval + 1 if across_epochs else batches + 1, interval)
    scheduled = [window for each in _accumulation_schedulers(trainer) for window in each.scheduling.values()]
    for window in {trainer.accumulate_grad_batches, *scheduled}:
        if any(end % batches % window for end in ends):
            raise ValueError(
                f"trainer.val_check_interval validates every {interval} of {batches} batches, between batches whose "
                f"gradients are accumulated ({window}); no checkpoint holds gradients: choose a multiple of {window}"
            )


def _accumulation_schedulers(trainer: Trainer) -> list[callbacks.GradientAccumulationScheduler]:
    return [each for each in trainer.callbacks if isinstance(each, callbacks.GradientAccumulationScheduler)]  # type: ignore[attr-defined]


def _batch_norms(module: nn.Module) -> list[tuple[str, nn.Module]]:
    return [(name, part) for name, part in module.named_modules() if hasattr(part, "track_running_stats")]


def random_state() -> dict[str, Any]:
    """The state of every global generator, as data that `weights_only=True` loads."""
    version, numbers, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "python": [version, list(numbers), gauss],
        "numpy": [kind, torch.from_numpy(np.asarray(keys).astype(np.int64)), position, has_gauss, cached],
    }


def set_random_state(state: dict[str, Any]) -> None:
    """The inverse of `random_state`. GPUs that were not present then keep their state."""
    torch.set_rng_state(state["torch"].cpu())
    for device, generator in enumerate(state["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(generator.cpu(), device)
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    kind, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), position, has_gauss, cached))
