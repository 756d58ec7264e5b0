"""The step at which a test or a validation of a checkpoint is logged."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer


class LoggerSteps(Callback):
    """Gives the loggers the step of the checkpoint that is evaluated.

    Lightning does not restore its step for a test: it would log at step 0, or at the last step of the fit.
    """

    def __init__(self) -> None:
        self._checkpoint_step = 0

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._checkpoint_step = checkpoint["global_step"]

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        _evaluate_at(trainer, self._checkpoint_step if trainer.ckpt_path else trainer.global_step)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == "validate":
            self.on_test_start(trainer, pl_module)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        _evaluate_at(trainer, None)


def _evaluate_at(trainer: Trainer, step: int | None) -> None:
    for logger in trainer.loggers:
        if hasattr(logger, "evaluate_at"):
            logger.evaluate_at(step)
