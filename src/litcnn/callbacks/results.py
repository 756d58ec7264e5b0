"""What an evaluation leaves in the run directory: metrics of a test, predictions."""

import csv
import json
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from litcnn.run import relative, write_whole


class WriteResults(Callback):
    """Writes `report/metrics.json` after a test and `predictions.csv` after a prediction into the run directory.

    A row of predictions: the image (its file where there is one, else its index), the true class, the predicted class
    and its probability.
    """

    def __init__(self) -> None:
        self._rows: list[tuple[str, float]] = []

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("test/")}
        if trainer.is_global_zero and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            path = Path(trainer.default_root_dir) / "report" / "metrics.json"
            path.parent.mkdir(exist_ok=True)
            write_whole(path, json.dumps(metrics, indent=2) + "\n")

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._rows = []

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Tensor,  # probabilities (N, classes)
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        names: Any = pl_module.class_names
        confidence, prediction = outputs.max(1)
        self._rows += [(names[i], c) for i, c in zip(prediction.tolist(), confidence.tolist(), strict=True)]

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        arrays, indices = trainer.datamodule.part("test")  # type: ignore[attr-defined]
        names: Any = pl_module.class_names
        path = Path(trainer.default_root_dir) / "predictions.csv"
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["image", "label", "prediction", "confidence"])
            for index, (prediction, confidence) in zip(indices.tolist(), self._rows, strict=False):
                image = arrays.paths[index] if arrays.paths else index
                writer.writerow([image, names[int(arrays.labels[index])], prediction, f"{confidence:.6f}"])
        rank_zero_info(f"{len(self._rows):,} predictions: {relative(path)}")
