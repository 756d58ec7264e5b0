"""What the user reads at the terminal: what runs where, progress, a line for each epoch, and the result."""

import math
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import rich
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar
from numpy.typing import NDArray
from rich.markup import escape
from rich.table import Table

from litengine.files import relative
from litengine.terminal import listed, print_line
from litengine.training.checkpoints import Checkpoints, wrong_direction

IMBALANCE = 3  # ratio of class sizes from which the start mentions them
DRAWN = 5  # times a second that the progress bar is drawn
SILENCE = 25.0  # seconds after which a line shows the progress if there is no bar
LOOK_AT_THREADS_AFTER = 10.0  # seconds of training
WAITING = 1 / 3  # part of their time that threads wait for a core, from which that is mentioned


class Console(Callback):
    """Prints what runs where, a line for each epoch, and the result. If the output goes to a file, it prints the
    progress in an epoch at least every 30 seconds (if a batch takes less than 5 seconds).

    It logs `images_per_second` and `peak_memory_gib` of every epoch. Peak memory is that of the GPU (torch's allocator)
    or, on a CPU, of this process since it started.

    Args:
        notes: what was decided before the run and deserves a word, such as a changed precision.
    """

    def __init__(self, notes: list[str] | None = None) -> None:
        self.notes = notes or []
        self._images = 0
        self._started = self._ended = 0.0
        self._epoch: int | None = None
        self._printed_at = time.monotonic()
        self._look_at_threads_at = math.inf

    # at the start

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._announce(trainer, pl_module)
        model: Any = pl_module
        _print_imbalance(dict(zip(model.class_names, model.class_counts, strict=True)))

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._announce(trainer, pl_module)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._ended = self._ended or time.monotonic()
        if trainer.state.fn == "validate":
            self._announce(trainer, pl_module)

    def _announce(self, trainer: Trainer, pl_module: LightningModule) -> None:
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        splits = ", ".join(f"{split} {size:,}" for split, size in data.sizes().items())
        network: Any = pl_module.network
        parts = [
            _device(trainer),
            f"precision {trainer.precision}",
            f"{type(network).__name__}: {sum(each.numel() for each in network.parameters()):,} parameters",
            f"{type(data.source).__name__}: {splits} images, {len(data.class_names)} classes",
            relative(trainer.default_root_dir),
            *(f"W&B {status.partition(': upload')[0]}" for status in _tracker_status(trainer)),
            *self.notes,
        ]
        print_line("[bold]" + " · ".join(parts))
        for split in data.sizes():
            there = set(np.unique(data.subset(split).labels))
            if absent := [name for label, name in enumerate(data.class_names) if label not in there]:
                print_line(f"no {split} images of {escape(listed(absent))}: means over classes leave these out")

    # every epoch

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._epoch, self._started = trainer.current_epoch, time.monotonic()  # a resume in its middle starts no epoch
        if trainer.strategy.root_device.type == "cpu" and torch.get_num_threads() > 1:
            self._thread_times = thread_times()
            self._look_at_threads_at = self._started + LOOK_AT_THREADS_AFTER
        for each in trainer.callbacks:  # type: ignore[attr-defined]
            monitor, mode = getattr(each, "monitor", None), getattr(each, "mode", None)
            if monitor and mode and (wrong := wrong_direction(pl_module, type(each).__name__, monitor, mode)):
                print_line(f"warning: {wrong}")
        if trainer.global_step:
            print_line(f"resumed at epoch {trainer.current_epoch + 1}, after step {trainer.global_step:,}")

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.on_train_end(trainer, pl_module)
        self._epoch, self._images = trainer.current_epoch, 0
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        self._started = self._printed_at = time.monotonic()
        self._ended = 0.0

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self._images += len(batch[1]) * trainer.world_size
        if time.monotonic() >= self._look_at_threads_at:
            self._look_at_threads_at = math.inf
            ran, waited = thread_times() - self._thread_times
            if waited > WAITING * (ran + waited):
                print_line(
                    f"warning: the {torch.get_num_threads()} threads waited for a core {waited / (ran + waited):.0%} "
                    "of their time: other programs use this machine. Try OMP_NUM_THREADS=1"
                )
        self._print_progress(f"epoch {trainer.current_epoch + 1}", batch_idx, trainer.num_training_batches)

    def on_validation_batch_end(self, trainer: Trainer, *args: Any) -> None:
        self._print_progress("validation", args[3], trainer.num_val_batches[0])

    def on_test_batch_end(self, trainer: Trainer, *args: Any) -> None:
        self._print_progress("test", args[3], trainer.num_test_batches[0])

    def _print_progress(self, where: str, batch_idx: int, batches: float) -> None:
        if time.monotonic() - self._printed_at >= SILENCE and not rich.get_console().is_terminal:
            print_line(f"{where}, batch {batch_idx + 1:,} of {batches:,}")
            self._printed_at = time.monotonic()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        seconds = (self._ended or time.monotonic()) - self._started  # of training, up to the validation
        values = {"images_per_second": self._images / seconds, "peak_memory_gib": _peak_memory(trainer)}
        pl_module.log_dict(values, sync_dist=True)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The line of the epoch before: only now are all its metrics in."""
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        if self._epoch is None or "train/loss" not in metrics:
            return
        parts = [f"epoch {self._epoch + 1:>3}/{trainer.max_epochs}", *_by_split(metrics), f"lr {metrics['lr']:<7.2g}"]
        parts += [f"{metrics['images_per_second']:>7,.0f} images/s", f"peak {metrics['peak_memory_gib']:.2f} GiB"]
        print_line("  ".join(parts))
        self._epoch = None

    # at the end

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for checkpoints in trainer.checkpoint_callbacks:
            if isinstance(checkpoints, Checkpoints) and (path := checkpoints.best_path(trainer)):
                if checkpoints.best_score is None or checkpoints.best_epoch is None:
                    print_line(f"last weights: {relative(path)}")
                else:
                    best = f"{checkpoints.monitor} {checkpoints.best_score:.4f}"
                    print_line(f"best epoch {checkpoints.best_epoch + 1}: {best}, {relative(path)}")
                linked = Path("best.ckpt").exists() and Path("best.ckpt").samefile(path)
                print_line(f"next: python main.py test --ckpt_path {'best.ckpt' if linked else relative(path)}")
        for status in _tracker_status(trainer):
            print_line(f"W&B: {status}")
        val, accuracy = trainer.datamodule.subset("val"), trainer.callback_metrics.get("val/acc")  # type: ignore[attr-defined]
        if val is not None and accuracy is not None:
            largest = np.bincount(val.labels).max() / len(val.labels)
            if float(accuracy) <= largest:
                print_line(
                    f"warning: val/acc {float(accuracy):.2%} is no better than always predicting the largest class "
                    f"({largest:.2%} of the validation images)"
                )

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn != "validate":
            return
        table = Table("metric", title=f"val images: {trainer.datamodule.sizes()['val']:,}")  # type: ignore[attr-defined]
        table.add_column("value", justify="right")
        for name, value in trainer.callback_metrics.items():
            if name.startswith("val/"):
                table.add_row(name, f"{float(value):.4f}")
        print_line(table)


class ProgressBar(RichProgressBar):
    """Rich's bar on a terminal, with loss and accuracy, at most five times a second: reading them waits for the device.
    No bar if the output goes to a file."""

    def __init__(self) -> None:
        super().__init__(refresh_rate=DRAWN if rich.get_console().is_terminal else 0)
        self._moved_at = 0.0

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        if time.monotonic() - self._moved_at >= 1 / DRAWN or trainer.is_last_batch:
            super().on_train_batch_end(trainer, *args)
            self._moved_at = time.monotonic()

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        return {name.removesuffix("_step"): f"{value:.3f}" for name, value in metrics.items()}


def _print_imbalance(counts: dict[str, int]) -> None:
    """Prints the training images of each class if the largest class has more than 3 times as many as the smallest."""
    if max(counts.values()) <= IMBALANCE * min(counts.values()):
        return
    sizes = [f"{name} {counts[name]:,}" for name in sorted(counts, key=counts.__getitem__)]
    print_line(
        escape(
            f"classes differ in size: {listed(sizes)} training images. Consider --model.class_weights "
            "balanced or --data.sampling balanced, and --model.metrics '[acc, f1]' with --checkpoints.monitor val/f1"
        )
    )


def thread_times() -> NDArray[np.int64]:
    """Nanoseconds that the threads of this process have run, and that they have waited for a core: (2,). Only Linux
    counts them; else they are 0."""
    times = np.zeros(2, np.int64)
    for file in Path("/proc/self/task").glob("*/schedstat"):
        with suppress(OSError):  # the thread has ended
            times += np.array(file.read_text().split()[:2], np.int64)
    return times


def _by_split(metrics: dict[str, float]) -> list[str]:
    """Metrics of training and validation, without those of single steps and classes: "val loss 0.31 acc 92.10%"."""
    parts = []
    for split in ("train", "val"):
        names = [name.split("/")[1] for name in metrics if name.startswith(f"{split}/") and name.count("/") == 1]
        names = sorted((n for n in names if not n.endswith("_step")), key=lambda n: (n != "loss", n != "acc"))
        shown = [(name, metrics[f"{split}/{name}"]) for name in names]
        words = [f"{name} {value:7.2%}" if name == "acc" else f"{name} {value:.4f}" for name, value in shown]
        parts += [" ".join([split, *words])] if words else []
    return parts


def _tracker_status(trainer: Trainer) -> list[str]:
    found = [getattr(logger, "status", None) for logger in trainer.loggers]
    return [status for status in found if isinstance(status, str)]  # Lightning's DummyLogger has every attribute


def _device(trainer: Trainer) -> str:
    kind = trainer.strategy.root_device.type
    if kind == "cuda":
        name = torch.cuda.get_device_name(trainer.strategy.root_device)
    else:
        name = f"CPU ({torch.get_num_threads()} threads)" if kind == "cpu" else kind.upper()
    return f"{trainer.world_size} x {name}" if trainer.world_size > 1 else name


def _peak_memory(trainer: Trainer) -> float:
    """GiB; NaN on Windows, where Python cannot tell."""
    if trainer.strategy.root_device.type == "cuda":
        return torch.cuda.max_memory_allocated(trainer.strategy.root_device) / 2**30
    try:
        import resource
    except ImportError:
        return float("nan")
    unit = 2**30 if sys.platform == "darwin" else 2**20  # macOS counts bytes, Linux KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
