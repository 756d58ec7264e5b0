"""Images that take several times the memory that a process may have."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from program import NO_TRACKER

from litengine.data import ImageFolder

IMAGES, SIZE = 4000, 512
LIMIT = 1000 * 2**20  # a fit has some 650 MiB to itself
POOLED = """
from torch import nn

class Pooled(nn.Sequential):
    def __init__(self, num_classes: int = 2, in_channels: int = 3) -> None:
        super().__init__(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(in_channels, num_classes))
"""


@contextmanager
def control_group(limit: int) -> Iterator[Path]:
    """A group of processes that have so many bytes of memory together, the system's copies of files included. Nothing
    else limits those: RLIMIT_DATA counts every mapping in full."""
    groups = dict(line.split(":")[1:] for line in Path("/proc/self/cgroup").read_text().splitlines())
    root = Path("/sys/fs/cgroup/memory") if "memory" in groups else Path("/sys/fs/cgroup")
    group = root / groups.get("memory", groups.get("", "/")).lstrip("/") / f"litcnn-test-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no control group can be made: {error}")
    try:
        limits = group / ("memory.limit_in_bytes" if "memory" in groups else "memory.max")
        if not limits.exists():
            pytest.skip(f"no memory can be limited in {group.parent}")
        limits.write_text(str(limit))
        yield group
    finally:
        group.rmdir()


def refusals(group: Path) -> int:
    """How often memory was wanted and had to be freed first."""
    if (counter := group / "memory.failcnt").exists():
        return int(counter.read_text())
    return int(dict(line.split() for line in (group / "memory.events").read_text().splitlines())["max"])


def black_images(paths: list[str], size: int, **_: object) -> Iterator[tuple[np.ndarray, list[None]]]:
    """In the place of decode_batches: pixels without the time that decoding takes."""
    for _ in paths:
        yield np.zeros((1, 3, size, size), dtype=np.uint8), [None]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited by Linux's control groups")
def test_a_folder_of_three_times_the_memory_is_trained_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for number in range(IMAGES):
        path = Path("pictures", "ab"[number % 2], f"{number}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    monkeypatch.setattr("litengine.data.sources.folder.decode_batches", black_images)
    source = ImageFolder("pictures", SIZE, test_fraction=0)
    source.prepare()
    train = source.load("train")
    assert train is not None and train.images.nbytes >= 3 * LIMIT
    del train
    for path in Path("data/cache").rglob("*.pixels"):  # what is in memory already would count for this process
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    Path("pooled.py").write_text(POOLED)
    fit = [
        "fit", *NO_TRACKER, "--data.source", "litengine.data.ImageFolder", "--data.source.root", "pictures",
        "--data.source.image_size", str(SIZE), "--data.source.test_fraction", "0", "--data.val_fraction", "0.01",
        "--data.batch_size", "8", "--data.mean", "[0.5, 0.5, 0.5]", "--data.std", "[0.25, 0.25, 0.25]",
        "--model.network", "pooled.Pooled", "--model.optimizer", "torch.optim.SGD", "--model.optimizer.lr", "0.1",
        "--trainer.max_epochs", "1", "--trainer.enable_progress_bar", "false", "--trainer.precision", "32-true",
    ]  # fmt: skip
    with control_group(LIMIT) as group:
        fitted = subprocess.run(
            [sys.executable, "-m", "litcnn", *fit], env={**os.environ, "PYTHONPATH": str(tmp_path)},
            capture_output=True, text=True, preexec_fn=lambda: (group / "cgroup.procs").write_text(str(os.getpid())),
        )  # fmt: skip
        assert fitted.returncode == 0, fitted.stderr  # -9: it took too much
        assert "train 3,960, val 40 images" in fitted.stdout
        assert refusals(group) > 0
