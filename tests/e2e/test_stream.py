"""Training from a stream: the same images wherever it lies, however many processes there are, whatever happens."""

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import FakeSource, trainer
from lightning.pytorch import seed_everything
from outcome import outcome
from plain import Plain
from processes import together

from litcnn.__main__ import main
from litcnn.augment import RandomCrop, RandomFlip
from litcnn.data import ImageData
from litcnn.model import ImageClassifier
from litengine.cli.prepare import prepare
from litengine.data import Stream
from litengine.data.sources import stream_writer
from litengine.training import Checkpoints

CONFIGS = Path(__file__).parents[2] / "configs"
FIT = [
    "fit", "--config", str(CONFIGS / "digits.yaml"), "--config", str(CONFIGS / "with/no_tracker.yaml"),
    "--data.source", "litengine.data.Stream", "--data.batch_size", "32", "--trainer.max_epochs", "2",
    "--model.network.init_args.widths", "[8, 8]", "--trainer.log_every_n_steps", "2",
]  # fmt: skip


def only_run(home: Path) -> Path:
    (run,) = (home / "runs").glob("*/*")
    return run


@pytest.fixture
def digits(monkeypatch: pytest.MonkeyPatch) -> str:
    """A stream of scikit-learn's digits in 44 shards of 30."""
    with monkeypatch.context() as patch:
        patch.setattr(stream_writer, "SHARD_BYTES", 30 * 3 * 32 * 32)
        main(["prepare", "--config", str(CONFIGS / "digits.yaml"), "--to", "digits"])
    return str(Path("digits").absolute())


def test_a_fit_that_stopped_in_the_middle_of_an_epoch_goes_on_to_the_same_end(
    digits: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copies: list[Path] = []
    save = Checkpoints._save

    def save_and_copy(self: Checkpoints, trainer: Any, name: str) -> None:
        save(self, trainer, name)
        if name == "last.ckpt" and trainer.global_step in (20, 41 + 30):  # of 41 steps an epoch
            copies.append(tmp_path / f"copy{len(copies)}")
            shutil.copytree(trainer.default_root_dir, copies[-1])

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "_save", save_and_copy)
        main([*FIT, "--data.source.root", digits, "--checkpoints.every_n_minutes", "0"])
    run = only_run(tmp_path)
    expected = outcome(run)
    assert len(copies) == 2
    for copy in copies:
        shutil.rmtree(run)
        shutil.copytree(copy, run)
        main(["fit", "--resume", str(run)])
        found = outcome(run)
        assert [name for name in expected if found[name] != expected[name]] == []


@pytest.mark.slow
def test_a_fit_that_was_killed_goes_on_to_the_same_end(digits: str, tmp_path: Path) -> None:
    fit = [*FIT, "--data.source.root", f"local:{digits}", "--checkpoints.every_n_minutes", "0"]
    main(fit)
    expected = outcome(only_run(tmp_path))
    shutil.rmtree(tmp_path / "runs")
    shutil.rmtree(tmp_path / "data")
    program = subprocess.Popen([sys.executable, "-m", "litcnn", *fit])
    while not any(len(file.read_text().splitlines()) > 4 for file in tmp_path.glob("runs/*/*/metrics.csv")):
        assert program.poll() is None, "it ended too soon"
        time.sleep(0.02)
    program.send_signal(signal.SIGKILL)
    program.wait()
    assert 0 < torch.load(only_run(tmp_path) / "checkpoints/last.ckpt", weights_only=True)["global_step"] < 82
    main(["fit", "--resume", "last"])
    found = outcome(only_run(tmp_path))
    assert [name for name in expected if found[name] != expected[name]] == []


def train(root: str, processes: int) -> tuple[np.ndarray, dict[str, float], int]:
    """Weights and metrics at the end, and the shards of training images that this process read."""
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
