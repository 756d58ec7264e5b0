"""What every test gets: one thread, a working directory of its own, and nothing of the developer's."""

import os
from pathlib import Path

# Tests run on the CPU, and so do the programs that they start, unless tests marked `gpu` are chosen (`make test-gpu`).
# It must be decided before torch is imported.
if "LITCNN_TEST_GPU" not in os.environ:
    os.environ["CUDA_VISIBLE_DEVICES"] = ""

import lightning.pytorch  # noqa: F401  before sklearn, whose Union[float, int] would turn that of the Trainer round
import pytest
import torch

torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"  # in the programs that tests start too: the bits depend on it


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a GPU: make test-gpu"))


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither keys nor files of the developer are used, and what a test sets in the environment ends with it."""
    for name in [*filter(lambda name: name.startswith("WANDB_"), os.environ), "LITENGINE_AGREED", "LOCAL_RANK"]:
        monkeypatch.setenv(name, "")  # remembers it, so that what the program sets is taken back too
        monkeypatch.delenv(name)
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """The program draws nothing, which takes half of the time of a short fit or test.

    For tests that look at no picture: tests/litengine/report and tests/litengine/training look at each, and the shared
    fit of tests/e2e and its report are drawn.
    """
    from litengine.report import page, pictures

    monkeypatch.setattr(page, "render", lambda *_: "")
    monkeypatch.setattr(pictures, "learning_curves", lambda rows: [])
    monkeypatch.setattr(pictures, "image_grid", lambda images, titles: pictures.Figure((1, 1)))
