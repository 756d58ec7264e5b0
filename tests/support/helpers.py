"""Images and a Trainer that tests can afford."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, Checkpoint
from project_for_tests import ImageData
from torch import nn

from litengine.data import Arrays, Source, Split


class FakeSource(Source):
    """Random images around a colour of their class, in random order; a function of the arguments alone.

    Args:
        train, val, test: images of each class; None where the split is missing.
        shape: (C, H, W).
        names: of the classes; by default a, b, c, …
    """

    def __init__(
        self,
        train: Sequence[int] | None = (10, 10, 10),
        val: Sequence[int] | None = None,
        test: Sequence[int] | None = (5, 5, 5),
        shape: tuple[int, int, int] = (3, 8, 8),
        names: Sequence[str] = (),
    ) -> None:
        self.counts: dict[str, Sequence[int] | None] = {"train": train, "val": val, "test": test}
        self.shape = shape
        self.names = list(names) or list("abcdefghij"[: len(train or val or test or ())])
        self.loaded: list[str] = []  # each split that was asked for, in order
        self.prepared = 0

    @property
    def class_names(self) -> list[str]:
        return self.names

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self.shape

    def prepare(self) -> None:
        self.prepared += 1

    def load(self, split: Split) -> Arrays | None:
        self.loaded.append(split)
        counts = self.counts[split]
        if counts is None:
            return None
        random = np.random.default_rng(("train", "val", "test").index(split))
        labels = random.permutation(np.repeat(np.arange(len(counts)), counts))
        channels = self.shape[0]
        colours = np.random.default_rng(7).integers(0, 180, (len(counts), channels))
        pixels = colours[labels][:, :, None, None] + random.integers(0, 76, (len(labels), *self.shape))
        return Arrays(torch.from_numpy(pixels.astype(np.uint8)), torch.from_numpy(labels.astype(np.int64)))


def trainer(*callbacks: Callback, epochs: int = 2, **settings: Any) -> Trainer:
    """A quiet Trainer on the CPU."""
    quiet = {
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": any(isinstance(callback, Checkpoint) for callback in callbacks),
        "log_every_n_steps": 1,
    }
    return Trainer(accelerator="cpu", max_epochs=epochs, callbacks=list(callbacks), **(quiet | settings))


def fit(
    model: LightningModule, data: ImageData, *callbacks: Callback, ckpt_path: str | None = None, **settings: Any
) -> Trainer:
    """Trains, and returns the Trainer that did."""
    made = trainer(*callbacks, **settings)
    made.fit(model, data, ckpt_path=ckpt_path)
    return made


def checkpoint_of(network: nn.Module, spec: dict[str, Any] | None, **data: Any) -> dict[str, Any]:
    """The parts of a checkpoint that make a classifier again: of a network, its spec, and facts of the data."""
    facts = {"class_names": list("abc"), "image_shape": [3, 8, 8], "mean": [0.5] * 3, "std": [0.5] * 3}
    return {
        "config": {"model": {"network": spec}},
        "data": {**facts, "tta": "none", "channels_last": True, **data},
        "state_dict": {f"network.{name}": value for name, value in network.state_dict().items()},
    }
