"""Training from a stream: the same images wherever it lies, however many processes there are, also after a kill."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import FakeSource, trainer
from lightning.pytorch import seed_everything
from outcome import outcome
from plain import Plain
from processes import together
from program import DIGITS, NO_TRACKER, last, only_run, wait_for

from litcnn.__main__ import main
from litcnn.augment import RandomCrop, RandomFlip
from litcnn.data import ImageData
from litcnn.model import ImageClassifier
from litengine.cli.prepare import prepare
from litengine.data import Stream
from litengine.data.sources import stream_writer

FIT = [
    "fit", *DIGITS, *NO_TRACKER, "--data.source", "litengine.data.Stream",
    "--data.batch_size", "32", "--model.network.init_args.widths", "[8, 8]", "--trainer.max_epochs", "2",
    "--trainer.log_every_n_steps", "2", "--trainer.callbacks+", "processes.WaitAt", "--trainer.callbacks.step", "60",
    "--checkpoints.every_n_minutes", "0",
]  # fmt: skip


@pytest.mark.slow
def test_a_fit_that_was_killed_goes_on_to_the_same_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed in the middle of the second epoch; an epoch has 41 steps."""
    with monkeypatch.context() as patch:
        patch.setattr(stream_writer, "SHARD_BYTES", 30 * 3 * 32 * 32)  # 44 shards
        main(["prepare", *DIGITS, "--to", "digits"])
    fit = [*FIT, "--data.source.root", "digits"]
    Path("waiting").touch()
    main(fit)
    expected = outcome(only_run())
    shutil.rmtree("runs")
    Path("waiting").unlink()
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    program = subprocess.Popen([sys.executable, "-m", "litcnn", *fit], env=env, text=True)
    wait_for(Path("waiting").exists, program)
    program.send_signal(signal.SIGKILL)
    program.wait()
    assert last(only_run())["global_step"] == 60
    main(["fit", "--resume", "last"])
    found = outcome(only_run())
    assert [name for name in expected if found[name] != expected[name]] == []


def train(root: str, processes: int) -> tuple[np.ndarray, dict[str, float], int]:
    """Weights and metrics at the end, and the number of shards of training images that this process read."""
    seed_everything(0, verbose=False)
    data = ImageData(Stream(root), 8, augment=[RandomCrop(1), RandomFlip()])
    several = {"devices": processes, "strategy": "ddp"} if processes > 1 else {"devices": 1}
    read: set[int] = set()
    shards = data.subset("train").arrays.images
    first = shards._read
    shards._read = lambda shard: (read.add(shard), first(shard))[1]
    fitted = trainer(epochs=1, **several)
    classifier = ImageClassifier(Plain(), lambda parameters: torch.optim.SGD(parameters, lr=0.1))
    fitted.fit(classifier, data)
    weights = torch.cat([parameter.detach().flatten() for parameter in classifier.network.parameters()]).numpy()
    return weights, {name: float(value) for name, value in fitted.callback_metrics.items()}, len(read)


def test_two_and_four_processes_train_as_one_and_share_the_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_writer, "SHARD_BYTES", 5 * 3 * 8 * 8)
    prepare(ImageData(FakeSource(train=(80, 80, 80), val=(3, 3, 5))), "stream")
    weights, metrics, read = train("stream", 1)
    assert read == 48
    for processes in (2, 4):
        for found, found_metrics, found_read in together(processes, train, "stream", processes):
            np.testing.assert_allclose(found, weights, rtol=1e-5, atol=1e-6)
            assert found_metrics == pytest.approx(metrics, rel=1e-5)
            assert found_read == 48 // processes
