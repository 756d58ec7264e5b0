"""What is printed while it trains."""

import os
import re
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import FakeSource, fit
from lightning.pytorch.callbacks import EarlyStopping
from project_for_tests import ImageClassifier, ImageData
from torch import nn

from litengine.training import Console, console


def train(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The lines of a fit of two epochs with three batches of training and one of validation."""
    model = ImageClassifier(nn.Sequential(nn.Flatten(), nn.Linear(192, 3)), lr_scheduler=None)
    fit(model, ImageData(FakeSource(), batch_size=8, val_fraction=0.2), Console(), epochs=2)
    return capsys.readouterr().out.splitlines()


def test_a_fit_prints_what_runs_where_and_each_epoch(capsys: pytest.CaptureFixture[str]) -> None:
    start, *epochs = train(capsys)
    assert start.startswith(
        "CPU (1 threads) · precision 32-true · Sequential: 579 parameters · FakeSource: train 24, val"
    )
    number = r"\d+\.\d{4}"
    for count, line in enumerate(epochs, 1):
        assert re.match(
            rf"epoch   {count}/2  train loss {number} acc +\d+\.\d\d%  val loss {number} acc .*  lr 0.001", line
        )
    assert len(epochs) == 2


def test_a_callback_that_watches_in_the_wrong_direction_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    model = ImageClassifier(nn.Sequential(nn.Flatten(), nn.Linear(192, 3)), lr_scheduler=None)
    stops = [EarlyStopping("val/acc"), EarlyStopping("val/loss"), EarlyStopping("val/acc", mode="max")]
    fit(model, ImageData(FakeSource(), batch_size=8, val_fraction=0.2), Console(), *stops, epochs=1)
    warnings = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning: EarlyStopping")]
    assert warnings == ["warning: EarlyStopping watches val/acc with mode min: set max"]


def test_without_a_terminal_a_long_silence_is_broken(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "SILENCE", 0.0)
    lines = [line for line in train(capsys) if "batch" in line]
    assert lines[1:5] == [f"epoch 1, batch {number} of 3" for number in (1, 2, 3)] + ["validation, batch 1 of 1"]


@pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="only Linux counts the time that threads wait")
def test_threads_that_share_a_core_wait_for_it() -> None:
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        numbers, before, end = torch.rand(1_000_000), console.thread_times(), time.monotonic() + 0.5

        def work() -> None:
            while time.monotonic() < end:
                numbers.sin()  # releases Python's lock

        threads = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads:
            thread.start()
        time.sleep(0.4)
        ran, waited = console.thread_times() - before
        for thread in threads:
            thread.join()
    finally:
        os.sched_setaffinity(0, cores)
    assert waited > ran > 0  # two of three wait


@pytest.mark.parametrize(("waited", "mentioned"), [(3, False), (12, True)])
def test_waiting_threads_are_mentioned(
    waited: int, mentioned: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    times = iter([[1, 1], [9, 1 + waited]])
    monkeypatch.setattr(console, "thread_times", lambda: np.array(next(times)))
    monkeypatch.setattr(console, "LOOK_AT_THREADS_AFTER", 0.0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    warnings = [line for line in train(capsys) if line.startswith("warning: the 2 threads")]
    assert len(warnings) == mentioned and all("waited for a core 60% of their time" in line for line in warnings)
