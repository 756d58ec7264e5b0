"""The whole resolved config, kept where it is looked for: run directory, checkpoint and tracker."""

from pathlib import Path
from typing import Any

import yaml
from jsonargparse import Namespace
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, SaveConfigCallback

from litengine import __version__, project
from litengine.files import write_whole


class RecordConfig(SaveConfigCallback):
    """Writes `config.yaml` into the run directory, the same as plain data into every checkpoint, and to the loggers."""

    def __init__(self, parser: LightningArgumentParser, config: Namespace) -> None:
        super().__init__(parser, config, save_to_log_dir=False)
        # plain strings, numbers, lists and dicts: nothing in a checkpoint that would have to be unpickled
        self.plain: dict[str, Any] = yaml.safe_load(self.parser.dump(self.config))
        self.plain.pop("resume", None)  # an instruction for this process, not a setting of the run

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Nothing yet: a fit that cannot start leaves the config of the run it was to go on with as it was."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            self.save_config(trainer, pl_module, "fit")

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        write_whole(Path(trainer.default_root_dir) / "config.yaml", yaml.safe_dump(self.plain, sort_keys=False))
        for logger in trainer.loggers:
            logger.log_hyperparams(self.plain)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        # enough to rebuild model and data, without the Trainer, which belongs to the machine
        kept = ("name", "seed_everything", "model", "data")
        checkpoint["config"] = {key: self.plain[key] for key in kept}
        checkpoint["engine"], checkpoint["project"] = __version__, project.package()
