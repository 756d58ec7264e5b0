"""What Lightning calls and looks up at every training step, and the methods that only our loggers have."""

import inspect
from typing import Any

from lightning.pytorch import Callback, Trainer

EVERY_STEP = {name for name in vars(Callback) if name.startswith(("on_train_batch_", "on_before_", "on_after_"))}


def shorten_steps(trainer: Trainer) -> None:
    """Sets the hooks of a step that our callbacks and Lightning's do not define to None, for Lightning calls what can
    be called; other callbacks may call their empty hooks. Keeps the signature of `training_step`, which it asks for
    each time."""
    step: Any = type(trainer.lightning_module).training_step
    step.__signature__ = inspect.signature(step)
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        ours = type(callback).__module__.startswith(("litengine.", "lightning."))
        for hook in EVERY_STEP if ours else ():
            if getattr(getattr(callback, hook), "__func__", None) is getattr(Callback, hook):
                setattr(callback, hook, None)


def call_loggers(trainer: Trainer, method: str, *args: Any) -> None:
    """Calls a method of all loggers that have it."""
    for logger in trainer.loggers:
        if hasattr(logger, method):
            getattr(logger, method)(*args)
