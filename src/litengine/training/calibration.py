"""Temperature scaling: after a fit, the probabilities are made to agree with the accuracy.

Source: Guo et al. 2017, "On Calibration of Modern Neural Networks".
"""

import copy
import math
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from litengine.files import write_whole
from litengine.report import Results, tables
from litengine.terminal import print_line
from litengine.training.checkpoint_files import CheckpointFiles
from litengine.training.checkpoints import Checkpoints
from litengine.training.run_directory import VALIDATION
from litengine.training.test_report import gathered_rows

LOWEST, HIGHEST = 0.01, 100.0


class FitTemperature(Callback):
    """At the end of a fit, stores a temperature in the best checkpoint, in `data`, and writes validation.csv into the
    run directory: a row for each validation image with its label and the calibrated prediction.

    It is fitted on the validation images, to the logits of that checkpoint with the model's test-time augmentation.
    Test, prediction and export divide the logits by it.
    """

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        (checkpoints,) = (each for each in trainer.checkpoint_callbacks if isinstance(each, Checkpoints))
        path = checkpoints.best_path(trainer)
        if path is None:  # a debug fit
            return
        if checkpoints.best_score is None or not trainer.val_dataloaders:
            print_line("probabilities are not calibrated: that needs validation images")
            return
        content = CheckpointFiles().load_checkpoint(path)
        indices, labels, logits = _validate(trainer, pl_module, content["state_dict"])
        temperature = fit_temperature(logits, labels)
        names: Any = pl_module.class_names
        before, after = (Results.of((logits / t).softmax(1), labels, names) for t in (1.0, temperature))
        print_line(
            f"temperature {temperature:.3f}: the calibration error on the {len(labels):,} validation images goes from "
            f"{before.metrics['ece']:.2%} to {after.metrics['ece']:.2%}"
        )
        if trainer.is_global_zero:
            content["data"]["temperature"] = temperature
            CheckpointFiles().save_checkpoint(content, path)
            paths = trainer.datamodule.subset("val").arrays.paths  # type: ignore[attr-defined]
            images = [paths[index] if paths else str(index) for index in indices.tolist()]
            write_whole(Path(trainer.default_root_dir) / VALIDATION, tables.predictions_csv(after, images))
        trainer.strategy.barrier()


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """The most probable temperature, by the cross entropy of logits / temperature and a log-normal prior around 1.

    Without the prior, which counts as much as few images, the temperature would be 0 if all predictions are right.
    Returns 1 if logits are not finite.

    Args:
        logits: float (N, classes).
        labels: int64 (N,).
    """
    from scipy.optimize import minimize_scalar

    if not logits.isfinite().all():
        return 1.0
    logits = logits.double()

    def loss(log_temperature: float) -> float:
        cross_entropy = F.cross_entropy(logits / math.exp(log_temperature), labels, reduction="sum")
        return float(cross_entropy) + log_temperature**2 / 2

    bounds = (math.log(LOWEST), math.log(HIGHEST))
    return math.exp(minimize_scalar(loss, bounds=bounds, method="bounded").x)


@torch.no_grad()
def _validate(trainer: Trainer, module: Any, weights: dict[str, Tensor]) -> list[Tensor]:
    """Index and label (N,) of each validation image and its logits (N, classes), float32, with these weights."""
    kept, was_training = copy.deepcopy(module.state_dict()), module.training  # with the versions of its parts
    module.load_state_dict(weights)
    module.eval()
    module.temperature = 1.0  # a fit that was resumed may have read another
    loader: Any = trainer.val_dataloaders
    batches = []
    for number, batch in enumerate(islice(loader, int(trainer.num_val_batches[0]))):
        images, labels = trainer.strategy.batch_to_device(batch)  # with the hooks of an owner
        with trainer.precision_plugin.val_step_context():
            logits = module.infer(images).float()
        batches.append((torch.from_numpy(loader.chosen(loader.order(0), number)), labels, logits))
    module.load_state_dict(kept)
    module.train(was_training)
    return gathered_rows(batches, trainer)
