"""What is recorded beside the metrics: the resolved config of a fit, and the step of a checkpoint that is evaluated."""

from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser, Namespace
from lightning.pytorch import Callback, LightningModule, Trainer

from litengine import __version__, project
from litengine.training.hooks import call_loggers
from litengine.training.run_directory import CONFIG, read_config, write_config

RECORDED = ("name", "seed_everything", "model", "data")  # in a checkpoint
UNWRITABLE = "Unable to serialize instance"  # jsonargparse writes this in place of the value


def as_settings(parser: ArgumentParser, config: Namespace) -> dict[str, Any]:
    """A parsed config as strings, numbers, lists and dicts that parse to the same config again.

    Raises:
        ValueError: if a value cannot be written.
    """
    try:
        written = parser.dump(config, skip_unset=False)
    except ValueError as error:  # PyYAML does not know the type of a value
        known = [line for line in str(error).splitlines() if "cannot represent" in line]
        written = f"{UNWRITABLE}: {known[0] if known else error}"
    for line in written.splitlines():
        if UNWRITABLE in line:
            raise ValueError(f"a value cannot be written to {CONFIG}, and no fit could be resumed: {line.strip()}")
    settings: dict[str, Any] = yaml.safe_load(written)
    settings.pop("resume", None)  # an instruction for this process, not a setting of the run
    settings["trainer"]["default_root_dir"] = None  # a fit with the same config is another run
    return settings


class RecordConfig(Callback):
    """Writes the config into the run directory and to the loggers, and the part about model and data into every
    checkpoint.

    It waits for the start of the fit: a fit that cannot start leaves the config of the run that it resumes unchanged.

    Args:
        settings: of `as_settings`, before the program added directories and ids of this run.
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings = settings

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        directory = Path(trainer.default_root_dir)
        if (directory / CONFIG).is_file():  # a resumed run: it did not begin with the checkpoint that it continues from
            self.settings["ckpt_path"] = read_config(directory).get("ckpt_path")
        write_config(directory, self.settings)
        for logger in trainer.loggers:
            logger.log_hyperparams(self.settings)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        # enough to rebuild model and data, without the Trainer, which belongs to the machine
        checkpoint["config"] = {key: self.settings[key] for key in RECORDED}
        checkpoint["engine"], checkpoint["project"] = __version__, project.package()


class LoggerSteps(Callback):
    """Gives the loggers the step of the checkpoint that is evaluated.

    Lightning does not restore its step for a test: it would log at step 0, or at the last step of the fit.
    """

    def __init__(self) -> None:
        self._checkpoint_step = 0

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._checkpoint_step = checkpoint["global_step"]

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        call_loggers(trainer, "evaluate_at", self._checkpoint_step if trainer.ckpt_path else trainer.global_step)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == "validate":
            self.on_test_start(trainer, pl_module)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        call_loggers(trainer, "evaluate_at", None)
