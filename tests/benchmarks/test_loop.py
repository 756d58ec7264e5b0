"""The bare loop does the same training as the program, or a comparison of the two means nothing."""

from typing import Any

import pytest
import torch
from loop import TINY, Bare, Program, Watch
from machine import ROOT
from torch import Tensor

from litcnn.model import ImageClassifier

SHORT = ["--trainer.max_epochs", "2", "--trainer.limit_val_batches", "0", "--trainer.precision", "32-true"]
WHITENED = ["fit", "--config", str(ROOT / "configs/fast.yaml"), *TINY, *SHORT]
COSINE = [
    "fit", "--config", str(ROOT / "configs/cnn.yaml"), "--config", str(ROOT / "configs/with/cosine.yaml"), *TINY,
    *SHORT, "--trainer.limit_train_batches", "3", "--model.network.init_args.dropout", "0",
]  # fmt: skip


def weights(kind: type[Program], args: list[str]) -> dict[str, Tensor]:
    watch = Watch(warm_up=1)
    program = kind(args, watch)
    assert isinstance(program.model, ImageClassifier)
    timing = watch.timing()
    assert 0 < timing.step * (watch.steps - 1) < timing.training
    return {f"{watch.steps} steps": torch.zeros(0), **program.model.network.state_dict()}


@pytest.mark.parametrize("args", [WHITENED, COSINE], ids=["fast.yaml", "cnn.yaml with a schedule by epochs"])
def test_the_bare_loop_ends_with_the_same_weights_as_the_program(args: list[str]) -> None:
    ours, bare = weights(Program, args), weights(Bare, args)
    assert ours.keys() == bare.keys()
    different = [name for name in ours if not torch.equal(ours[name], bare[name])]
    assert not different


def test_the_watch_counts_the_steps_after_the_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    clock: Any = iter([10.0, 13.0, 23.0, 24.0])  # start, warm, last, end
    monkeypatch.setattr("loop._now", lambda: next(clock))
    watch = Watch(warm_up=2)
    watch.on_train_start()
    for step in range(1, 8):
        watch.lap(is_last=step == 7)
    watch.on_train_end()
    assert watch.timing(0.5) == (14.0, 2.0, 24.0, 0.5)  # 10 s are 5 steps
