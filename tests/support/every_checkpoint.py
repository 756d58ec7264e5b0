"""Resumes a fit from every checkpoint that it writes, and counts those that lead to the same end."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

from lightning.pytorch.callbacks import BaseFinetuning
from outcome import outcome
from project_for_tests import main as program

from litengine.training.checkpoint_files import CheckpointFiles

CONFIGS = Path(__file__).parents[2] / "configs"
SHORT = [
    "--config", str(CONFIGS / "with/no_tracker.yaml"), "--trainer.max_epochs", "3", "--data.batch_size", "32",
    "--trainer.limit_train_batches", "5", "--trainer.limit_val_batches", "4", "--trainer.log_every_n_steps", "2",
    "--data.source", "litengine.data.Digits", "--model.network.init_args.widths", "[8, 8]",
    "--trainer.enable_progress_bar", "false",
]  # fmt: skip
CNN = ["--config", str(CONFIGS / "cnn.yaml"), *SHORT, "--model.network.init_args.hidden", "16"]
ARTICLE = [*CNN, "--model.optimizer.init_args.lr", "0.01"]
STOCK = "lightning.pytorch.callbacks"
TWICE = ["--trainer.val_check_interval", "0.4"]  # after 2 and 4 of 5 batches


class UnfreezeLater(BaseFinetuning):
    """Trains all but the first block of the CNN in the first epoch, and everything afterwards."""

    def freeze_before_training(self, pl_module: Any) -> None:
        self.freeze(pl_module.network.blocks[0])

    def finetune_function(self, pl_module: Any, epoch: int, optimizer: Any) -> None:
        if epoch == 1:
            self.unfreeze_and_add_param_group(pl_module.network.blocks[0], optimizer)


def with_callback(name: str, **arguments: Any) -> list[str]:
    given = [word for key, value in arguments.items() for word in (f"--trainer.callbacks.{key}", str(value))]
    return ["--trainer.callbacks+", f"{STOCK}.{name}", *given]


COSINE = ["--config", str(CONFIGS / "with/cosine.yaml")]
ONE_CYCLE = ["--config", str(CONFIGS / "with/one_cycle.yaml")]
ACCUMULATED = ["--trainer.accumulate_grad_batches", "2"]
EVERY_3 = ["--trainer.val_check_interval", "3"]
ACROSS_EPOCHS = [*EVERY_3, "--trainer.check_val_every_n_epoch", "null"]
EMA = with_callback("EMAWeightAveraging")
MAX_STEPS = ["--trainer.max_steps", "12"]

# What each tries: the options of its fit
EXACT = {
    "ReduceLROnPlateau": [*ARTICLE, "--model.lr_scheduler.init_args.patience", "0"],
    "cosine": [*ARTICLE, *COSINE],
    "OneCycle": [*CNN, *ONE_CYCLE],
    "accumulation": [*ARTICLE, *ACCUMULATED],
    "CutMix": [*ARTICLE, "--model.mixing", "torchvision.transforms.v2.CutMix"],
    "fast.yaml": ["--config", str(CONFIGS / "fast.yaml"), *SHORT],
    "validation twice an epoch": [*ARTICLE, *TWICE],
    "validation every 3 batches, across epochs": [*ARTICLE, *ACROSS_EPOCHS],
    "validation every 2 epochs": [*ARTICLE, "--trainer.check_val_every_n_epoch", "2"],
    "accumulation, validation twice": [*ARTICLE, *TWICE, *ACCUMULATED],
    "EMA": [*ARTICLE, *EMA],
    "EMA, validation twice": [*ARTICLE, *TWICE, *EMA],
    "ModelCheckpoint, validation twice": [
        *ARTICLE, *TWICE, *with_callback("ModelCheckpoint", monitor="val/loss", save_top_k=2),
    ],
    "EarlyStopping": [*ARTICLE, *with_callback("EarlyStopping", monitor="val/acc", patience=1, mode="min")],
    "EarlyStopping, validation twice": [
        *ARTICLE, *TWICE, *with_callback("EarlyStopping", monitor="val/loss", patience=1, mode="max"),
    ],
    "GradientAccumulationScheduler": [
        *ARTICLE, *with_callback("GradientAccumulationScheduler", scheduling='{"1": 2, "2": 3}'),
    ],
    "BaseFinetuning": [*ARTICLE, "--trainer.callbacks+", "every_checkpoint.UnfreezeLater"],
    "max_steps, validation every 3 batches": [*ARTICLE, "--trainer.max_epochs", "-1", *MAX_STEPS, *ACROSS_EPOCHS],
    "cosine, max_epochs null": [*ARTICLE, *COSINE, "--trainer.max_epochs", "null", *MAX_STEPS],
}  # fmt: skip
# Refused before the first step
REFUSED = {
    "StochasticWeightAveraging": [*ARTICLE, *with_callback("StochasticWeightAveraging", swa_lrs=0.001, device="cpu")],
    "ModelCheckpoint every 2 steps": [*ARTICLE, *with_callback("ModelCheckpoint", every_n_train_steps=2)],
    "validation inside an accumulation": [*ARTICLE, *EVERY_3, *ACCUMULATED],
    "validation by the clock": [*ARTICLE, "--trainer.val_check_interval", "00:00:00:01"],
    "a value that cannot be written": [*ARTICLE, *with_callback("StochasticWeightAveraging", swa_lrs=0.001)],
}


def resume_from_each(
    fit: list[str], folder: Path, main: Callable[[list[str]], Any]
) -> tuple[int, dict[str, list[str]]]:
    """Runs a fit in the working directory, then resumes it once from each checkpoint that it wrote.

    Args:
        fit: options of `fit`; the fit saves after every batch.
        folder: gets a copy of the run directory as it is right after each save.
        main: runs a command line.

    Returns:
        Number of checkpoints, and for each that did not lead to the same end what was different.
    """
    copies: list[Path] = []
    save = CheckpointFiles.save_checkpoint

    def save_and_copy(self: CheckpointFiles, checkpoint: dict[str, Any], path: str | Path, **rest: Any) -> None:
        save(self, checkpoint, path, **rest)
        run = next(Path("runs").glob("*/*")).absolute()
        copy = folder / f"{len(copies):03}-{Path(path).stem}-step{checkpoint['global_step']}"
        copies.append(copy)
        shutil.copytree(run, copy)
        (copy / "checkpoints/previous.ckpt").unlink(missing_ok=True)
        shutil.copy(path, copy / "checkpoints/last.ckpt")  # the one that is resumed from

    with mock.patch.object(CheckpointFiles, "save_checkpoint", save_and_copy):
        main(["fit", *fit, "--checkpoints.every_n_minutes", "0"])
    (run,) = Path("runs").glob("*/*")
    expected, different = outcome(run), {}
    for copy in copies:
        shutil.rmtree(run)
        shutil.copytree(copy, run)
        try:
            main(["fit", "--resume", str(run)])
            found = outcome(run)
            wrong = [name for name in expected if found[name] != expected[name]]
        except (Exception, SystemExit) as error:
            wrong = [f"{type(error).__name__}: {error}"]
        if wrong:
            different[copy.name] = wrong
    return len(copies), different


if __name__ == "__main__":  # one recipe, for benchmarks/faults.py
    Path("found.json").write_text(json.dumps(resume_from_each(EXACT[sys.argv[1]], Path("copies"), program)))
