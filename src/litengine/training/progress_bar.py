"""The progress bar: rich on a terminal, none where output goes to a file."""

from typing import Any

import rich
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar


class ProgressBar(RichProgressBar):
    """Rich's bar with loss and accuracy, which are read every `log_every_n_steps`: reading waits for the device."""

    def __init__(self) -> None:
        super().__init__(refresh_rate=10 if rich.get_console().is_terminal else 0)
        self._read_at = -1
        self._shown: dict[str, Any] = {}

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        step = trainer.global_step
        changed = step % trainer.log_every_n_steps == 0 and step != self._read_at  # type: ignore[attr-defined]
        if changed or trainer.state.stage != "train":
            self._read_at = step
            metrics = {
                name: value for name, value in super().get_metrics(trainer, pl_module).items() if name != "v_num"
            }
            self._shown = {name.removesuffix("_step"): f"{value:.3f}" for name, value in metrics.items()}
        return self._shown
