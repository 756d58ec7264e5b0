"""What a test leaves: tables on the terminal, `report/` in the run directory, pictures for the tracker."""

import json
import shlex
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torchmetrics.utilities.distributed import gather_all_tensors

from litengine import __version__, project
from litengine.files import relative, write_whole
from litengine.report import Results, ranked, tables
from litengine.terminal import listed, print_line
from litengine.training.pictures import metrics_of, not_fatal

SHOWN_FIRST = ("test/acc", "test/acc_top5", "test/loss", "test/ece", "test/f1")  # then others as they were logged


class WriteReport(Callback):
    """Prints how well a test went, and writes `report/` into the run directory.

    `metrics.json`: what was logged; of its own it logs top-5 accuracy (if there are more than five classes), expected
    calibration error, mean F1, and the recall of each class as its accuracy. `per_class.csv`: the scores of the
    classes. `predictions.csv`: a row for each image, in the order of the dataset. `index.html`: all of it, with
    pictures. The loggers that take pictures get them too.

    Args:
        command: the words of the command line, for the page.
    """

    def __init__(self, command: Sequence[str] = ()) -> None:
        self.command = command
        self._batches: list[tuple[Tensor, ...]] = []
        self._indices: list[int] = []
        self._results: Results | None = None
        self._uncalibrated: Results | None = None  # if the checkpoint has a temperature

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._batches, self._results, self._uncalibrated = [], None, None

    def on_test_batch_end(self, trainer: Trainer, pl_module: Any, *args: Any) -> None:
        probabilities, (_, labels), batch_idx = args[:3]
        loader: Any = trainer.test_dataloaders
        indices = torch.from_numpy(loader.chosen(loader.order(0), batch_idx))
        # these few numbers stay on the device: fetching them would wait for it at every step
        uncalibrated = (probabilities.log() * pl_module.temperature).softmax(1).amax(1, keepdim=True)
        self._batches.append((indices, labels, *ranked(probabilities), uncalibrated))

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self._batches:  # trainer.limit_test_batches is 0
            return
        indices, labels, ranking, probabilities, uncalibrated = gathered_rows(self._batches, trainer)
        module: Any = pl_module
        self._batches, self._indices = [], indices.tolist()
        self._results = Results(labels, ranking, probabilities, module.class_names)
        if module.temperature != 1 and not module.members:
            self._uncalibrated = replace(self._results, probabilities=uncalibrated)
        new = {f"test/{name}": value for name, value in self._results.metrics.items() if name != "acc"}
        new |= {f"test/acc/{scores.name}": scores.recall for scores in self._results.per_class if scores.support}
        logged = {name: value for name, value in new.items() if name not in module.metrics["test"]}
        pl_module.log_dict(logged, sync_dist=True)  # the same in every process

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        results, self._results = self._results, None
        if results is None or not trainer.is_global_zero:
            return
        folder = Path(trainer.default_root_dir) / "report"
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("test/")}
        shown = {name: metrics[name] for name in [*SHOWN_FIRST, *metrics] if name in metrics and name.count("/") == 1}
        print_line(tables.for_terminal(results, shown, relative(folder / "per_class.csv")))
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        paths = trainer.datamodule.subset("test").arrays.paths  # type: ignore[attr-defined]
        names = [paths[index] if paths else str(index) for index in self._indices]
        write_whole(folder / "metrics.json", json.dumps(metrics, indent=2) + "\n")
        write_whole(folder / "per_class.csv", tables.per_class_csv(results))
        write_whole(folder / "predictions.csv", tables.predictions_csv(results, names))
        with not_fatal(f"the page of the report (its numbers are in {relative(folder)})"):
            self._write_page(trainer, results, shown, names)

    def _write_page(self, trainer: Trainer, results: Results, metrics: dict[str, float], names: list[str]) -> None:
        from litengine.report import page, tracker

        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        pixels: Tensor = data.subset("test").arrays.images

        def image(place: int) -> Tensor:
            return pixels[self._indices[place]]

        run = Path(trainer.default_root_dir).absolute()
        config, html_file = run / "config.yaml", run / "report" / "index.html"
        facts = {
            "command": shlex.join(self.command),
            "checkpoint": relative(Path(trainer.ckpt_path).resolve()) if trainer.ckpt_path else "",
            "data": f"{type(data.source).__name__}, {len(results.labels):,} test images",
            "classes without images": listed([scores.name for scores in results.per_class if not scores.support]),
            "tested": f"{datetime.now():%Y-%m-%d %H:%M}",
            "version": f"{project.package()} {project.version()} litengine {__version__}".strip(),
        }
        html = page.render(
            run.parent.name,
            run.name,
            results,
            metrics,
            image,
            names,
            metrics_of(run),
            {name: fact for name, fact in facts.items() if fact},
            config.read_text("utf-8") if config.is_file() else "",
            self._uncalibrated,
        )
        write_whole(html_file, html.encode("utf-8", "replace"))
        print_line(f"report: {relative(html_file)}")
        for logger in trainer.loggers:
            tracker.log_report(logger, results, image, names, trainer.global_step)


def gathered_rows(batches: Sequence[tuple[Tensor, ...]], trainer: Trainer) -> list[Tensor]:
    """The columns of the batches of all processes, on the CPU, with their rows in the order of the first column.

    Args:
        batches: of this process: an index for each image (N,), and other columns (N, …).
    """
    columns = [torch.cat(parts) for parts in zip(*batches, strict=True)]
    if trainer.world_size > 1:  # each process may hold a different number of rows
        device = trainer.strategy.root_device
        columns = [torch.cat(gather_all_tensors(column.to(device))) for column in columns]
    columns = [column.cpu() for column in columns]
    order = columns[0].argsort()
    return [column[order] for column in columns]
