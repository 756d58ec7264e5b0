"""What a test leaves: tables on the terminal, `report/` in the run directory, pictures for the tracker."""

import csv
import json
import shlex
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning.pytorch import Callback, LightningModule, Trainer
from rich.markup import escape
from torch import Tensor
from torchmetrics.utilities.distributed import gather_all_tensors

from litengine import __version__, project
from litengine.files import relative, write_whole
from litengine.report import Results, ranked, tables
from litengine.terminal import print_line
from litengine.training.config_record import RecordConfig

SHOWN_FIRST = ("test/acc", "test/acc_top5", "test/loss", "test/ece", "test/f1")


class WriteReport(Callback):
    """Tells on the terminal how well a test went, and writes `report/` into the run directory.

    `metrics.json`: what was logged; of its own it logs top-5 accuracy (where there are more than five classes),
    expected calibration error and mean F1. `per_class.csv`: the scores of the classes. `predictions.csv`: a row an
    image, in the order of the dataset. `index.html`: all of it to look at, with pictures. The trackers that take
    pictures get them too.

    Args:
        command: the words of the command line, to be told on the page.
    """

    def __init__(self, command: Sequence[str] = ()) -> None:
        self.command = command
        self._batches: list[tuple[Tensor, ...]] = []
        self._indices: list[int] = []
        self._results: Results | None = None
        self._uncalibrated: Results | None = None  # if the checkpoint has a temperature

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._batches, self._results, self._uncalibrated = [], None, None

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # probabilities (N, classes)
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        loader: Any = trainer.test_dataloaders
        indices = torch.from_numpy(loader.chosen(loader.order(0), batch_idx))
        # these few numbers stay on the device: fetching them would wait for it at every step
        uncalibrated = (outputs.log() * pl_module.temperature).softmax(1).amax(1, keepdim=True)
        self._batches.append((indices, batch[1], *ranked(outputs), uncalibrated))

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self._batches:  # trainer.limit_test_batches is 0
            return
        collected = [of_all_processes(torch.cat(parts), trainer) for parts in zip(*self._batches, strict=True)]
        indices, labels, ranking, probabilities, uncalibrated = in_order(*collected)
        names: Any = pl_module.class_names
        self._batches, self._indices = [], indices.tolist()
        self._results = Results(labels, ranking, probabilities, names)
        if pl_module.temperature != 1 and not pl_module.members:
            self._uncalibrated = replace(self._results, probabilities=uncalibrated)
        of_module: Any = pl_module.metrics
        new = {f"test/{name}": value for name, value in self._results.metrics.items() if name != "acc"}
        new = {name: value for name, value in new.items() if name not in of_module["test"]}
        pl_module.log_dict(new, sync_dist=True)  # the same in every process

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        results, self._results = self._results, None
        if results is None or not trainer.is_global_zero:
            return
        folder = Path(trainer.default_root_dir) / "report"
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("test/")}
        shown = {name: metrics[name] for name in sorted(metrics, key=_rank) if name.count("/") == 1}
        print_line(tables.for_terminal(results, shown, relative(folder / "per_class.csv")))
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        arrays = trainer.datamodule.subset("test").arrays  # type: ignore[attr-defined]
        names = [arrays.paths[index] if arrays.paths else str(index) for index in self._indices]
        write_whole(folder / "metrics.json", json.dumps(metrics, indent=2) + "\n")
        write_whole(folder / "per_class.csv", tables.per_class_csv(results))
        write_whole(folder / "predictions.csv", tables.predictions_csv(results, names))
        # the numbers are safe: trouble with a picture is no reason to lose the run that is tested after its fit
        try:
            self._show(trainer, results, shown, folder, names)
        except Exception as error:
            reason = escape(f"{type(error).__name__}: {error}")
            print_line(f"the report has no pictures ({reason}); its numbers are in {relative(folder)}")

    def _show(
        self, trainer: Trainer, results: Results, metrics: dict[str, float], folder: Path, names: list[str]
    ) -> None:
        from litengine.report import page, tracker

        arrays = trainer.datamodule.subset("test").arrays  # type: ignore[attr-defined]

        def image(place: int) -> Tensor:
            pixels: Tensor = arrays.images[self._indices[place]]
            return pixels

        html = page.render(
            folder.absolute().parts[-3],
            folder.absolute().parts[-2],
            results,
            metrics,
            image,
            names,
            _metrics_csv(folder.parent),
            self._facts(trainer, results),
            _settings(trainer, folder.parent),
            self._uncalibrated,
        )
        write_whole(folder / "index.html", html.encode("utf-8", "replace"))
        print_line(f"report: {relative(folder / 'index.html')}")
        for logger in trainer.loggers:
            tracker.log_report(logger, results, image, names, trainer.global_step)

    def _facts(self, trainer: Trainer, results: Results) -> dict[str, str]:
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        facts = {
            "command": shlex.join(self.command),
            "checkpoint": relative(Path(trainer.ckpt_path).resolve()) if trainer.ckpt_path else "",
            "data": f"{type(data.source).__name__}, {len(results.labels):,} test images",
            "tested": f"{datetime.now():%Y-%m-%d %H:%M}",
            "version": f"{project.package()} {project.version()} litengine {__version__}".strip(),
        }
        return {name: fact for name, fact in facts.items() if fact}


def _rank(name: str) -> int:
    """The usual metrics come first; those of the project follow in the order in which they were logged."""
    return SHOWN_FIRST.index(name) if name in SHOWN_FIRST else len(SHOWN_FIRST)


def in_order(indices: Tensor, *columns: Tensor) -> list[Tensor]:
    """Indices and the rows of all columns, sorted by index: several processes have them in turn."""
    order = indices.argsort()
    return [column[order] for column in (indices, *columns)]


def of_all_processes(rows: Tensor, trainer: Trainer) -> Tensor:
    """The rows of all processes, of which each may have another number, on the CPU."""
    if trainer.world_size > 1:
        rows = torch.cat(gather_all_tensors(rows.to(trainer.strategy.root_device)))
    return rows.cpu()


def _metrics_csv(run: Path) -> list[dict[str, str]]:
    path = run / "metrics.csv"
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _settings(trainer: Trainer, run: Path) -> str:
    """Those of the run; of a checkpoint that lies in none, those it remembers."""
    path = run / "config.yaml"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    recorded = [callback.plain for callback in trainer.callbacks if isinstance(callback, RecordConfig)]  # type: ignore[attr-defined]
    return yaml.safe_dump(recorded[0], sort_keys=False) if recorded else ""
