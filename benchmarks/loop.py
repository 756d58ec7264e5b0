"""One training, run in three ways: by the program, as a user starts it; by a bare PyTorch loop around the same network,
optimizer, schedule, precision and batches; and by a Trainer with next to nothing in it.

    python benchmarks/loop.py program fit --config configs/digits.yaml    # one of them, alone in its process
    python benchmarks/loop.py bare fit --config configs/digits.yaml       # prints its seconds and its peak of memory
"""

import io
import itertools
import json
import logging
import os
import resource
import sys
import time
import warnings
from collections.abc import Sequence
from contextlib import redirect_stdout
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim.lr_scheduler import ReduceLROnPlateau

from litcnn.data import ImageData
from litcnn.model import ImageClassifier
from litengine import project
from litengine.cli.trainer import CLI
from litengine.data import Arrays, Source
from litengine.optim import make_schedule, parameter_groups

TINY = [  # settings of a fit that takes no time, for tests
    "--data.source", "loop.RandomPixels", "--data.source.train", "200", "--data.source.test", "50",
    "--model.network.init_args.widths", "[8, 8]", "--data.batch_size", "32",
]  # fmt: skip
AUTOCAST = {"16-mixed": torch.float16, "bf16-mixed": torch.bfloat16}


class RandomPixels(Source):
    """Noise in the shape of CIFAR-10, which takes as long to train on.

    Args:
        train, test: number of images.
    """

    def __init__(self, train: int = 50_000, test: int = 10_000) -> None:
        self.sizes = {"train": train, "val": None, "test": test}

    @property
    def class_names(self) -> list[str]:
        return list("abcdefghij")

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return 3, 32, 32

    def prepare(self) -> None: ...

    def load(self, split: str) -> Arrays | None:
        size = self.sizes[split]
        if size is None:
            return None
        generator = torch.Generator().manual_seed(0)
        images = torch.randint(256, (size, *self.image_shape), dtype=torch.uint8, generator=generator)
        return Arrays(images, torch.arange(size) % 10)


class Linear(nn.Module):
    """One layer, so that hardly anything but the loop around it takes time."""

    def __init__(self, in_channels: int = 3, image_size: int = 32, num_classes: int = 10) -> None:
        super().__init__()
        self.layer = nn.Linear(in_channels * image_size**2, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.layer(images.flatten(1).float())  # (N, C, H, W) -> (N, C * H * W) -> (N, classes)


class Timing(NamedTuple):
    """In seconds."""

    training: float  # all of it: with what is done between epochs, without making the network and reading the data
    step: float  # the mean of those after the warm-up: the next batch, forward, backward, update
    ended: float  # when the training did, on the clock of time.perf_counter
    accuracy: float | None = None  # of the test images, where it was asked for


class Watch(Callback):
    """Reads the clock when the training starts and ends, and when the warm-up and the last batch are over."""

    def __init__(self, warm_up: int) -> None:
        self.warm_up = warm_up
        self.steps = 0

    def on_train_start(self, trainer: Trainer | None = None, pl_module: Any = None) -> None:
        self.started = _now()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.lap(trainer.is_last_batch)

    def lap(self, is_last: bool) -> None:
        self.steps += 1
        if self.steps == self.warm_up:
            self.warm = _now()
        if is_last:
            self.last = _now()

    def on_train_end(self, trainer: Trainer | None = None, pl_module: Any = None) -> None:
        self.ended = _now()

    def timing(self, accuracy: float | None = None) -> Timing:
        step = (self.last - self.warm) / (self.steps - self.warm_up)
        return Timing(self.ended - self.started, step, self.ended, accuracy)


class Program(CLI):
    """What `main.py` does, with a watch on it."""

    def __init__(self, args: list[str], watch: Watch) -> None:
        self.watch = watch
        project.use("litcnn.model.ImageClassifier", "litcnn.data.ImageData")
        super().__init__(args)

    def before_fit(self) -> None:
        self.trainer.callbacks.append(self.watch)


class Bare(Program):
    """Makes everything as the program does, and then trains it without Lightning: no callback, no metric, no log."""

    def fit(self, model: ImageClassifier, datamodule: ImageData, **_: Any) -> None:
        trainer, device = self.trainer, self.trainer.strategy.root_device
        if trainer.accumulate_grad_batches > 1 or model.mixing is not None or model.loss is not None:
            raise ValueError(
                "the bare loop neither accumulates gradients, mixes images nor has another loss: leave them out"
            )
        model.trainer = datamodule.trainer = trainer
        trainer.datamodule = datamodule
        datamodule.prepare_data()
        datamodule.setup("fit")
        model.setup("fit")
        model.on_fit_start()  # the whitening of fast.yaml

        loader, network, epochs = datamodule.train_dataloader(), model.network.to(device), trainer.max_epochs
        limit = trainer.limit_train_batches
        batches = int(limit * len(loader)) if isinstance(limit, float) else min(limit, len(loader))
        optimizer = model.optimizer(parameter_groups(network, model.parameter_groups))
        parameters = [each for group in optimizer.param_groups for each in group["params"]]
        schedule, interval = make_schedule(model.lr_scheduler, optimizer, lambda: batches * epochs, lambda: epochs)
        autocast = torch.autocast(device.type, AUTOCAST.get(trainer.precision), trainer.precision in AUTOCAST)
        scaler = torch.amp.GradScaler(device.type, enabled=trainer.precision == "16-mixed")
        torch.backends.cudnn.benchmark = bool(self.config.fit.trainer.benchmark)

        network.train()
        self.watch.on_train_start()
        for epoch in range(epochs):
            loader.position = lambda epoch=epoch: (epoch, 0)
            for number, (images, labels) in enumerate(itertools.islice(loader, batches), 1):
                images = model.normalize(images)
                with autocast:
                    loss = F.cross_entropy(network(images), labels, label_smoothing=model.label_smoothing)
                optimizer.zero_grad()
                scaler.scale(loss).backward()
                if trainer.gradient_clip_val:
                    scaler.unscale_(optimizer)
                    clip_grad_norm_(parameters, trainer.gradient_clip_val)
                scaler.step(optimizer)
                scaler.update()
                if interval == "step":
                    schedule.step()
                self.watch.lap(number == batches)
            if interval == "epoch" and not isinstance(schedule, ReduceLROnPlateau):  # there is no validation
                schedule.step()
        self.watch.on_train_end()


def run(kind: type[Program], args: Sequence[str], warm_up: int = 1, watch: Watch | None = None) -> Timing:
    """Trains in this process as `main.py *args` would, or bare; nothing is printed but errors."""
    torch.compiler.reset()  # what was compiled for an earlier network counts against the limit of recompilations
    watch = watch or Watch(warm_up)
    with redirect_stdout(io.StringIO()):
        program = kind(list(args), watch)
    accuracy = program.trainer.callback_metrics.get("test/acc")
    return watch.timing(None if accuracy is None else float(accuracy))


class Stock(LightningModule):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def training_step(self, batch: Sequence[Tensor], batch_idx: int) -> Tensor:
        return F.cross_entropy(self.network(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)


def run_stock(network: nn.Module, loader: Any, warm_up: int, callbacks: Sequence[Callback] = ()) -> Timing:
    """Trains for one epoch with Lightning alone and these callbacks."""
    watch = Watch(warm_up)
    trainer = Trainer(
        max_epochs=1, logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=bool(callbacks), callbacks=[*callbacks, watch],
    )  # fmt: skip
    trainer.fit(Stock(network), loader)
    return watch.timing()


def as_a_user_sees_it() -> None:
    """W&B offline and the progress bar drawn, though nobody looks at it; Lightning's advice left out."""
    os.environ.setdefault("WANDB_MODE", "offline")
    os.environ["TTY_COMPATIBLE"] = "1"
    warnings.filterwarnings("ignore", module="lightning")  # few workers, no validation: meant
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)


def device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def peak_memory() -> int:
    """Bytes: what torch had allocated on the GPU, or on a CPU what the whole process had in memory."""
    if device() == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _now() -> float:
    if device() == "cuda":
        torch.cuda.synchronize()  # the clock is read when the GPU has done what it was given
    return time.perf_counter()


if __name__ == "__main__":
    as_a_user_sees_it()
    timing = run({"program": Program, "bare": Bare}[sys.argv[1]], sys.argv[2:])
    print(json.dumps({**timing._asdict(), "peak_memory": peak_memory()}))
