from pathlib import Path

import pytest
from program import DIGITS, NO_TRACKER

from litcnn.__main__ import main


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory with a fit of digits.yaml: three epochs; the best weights are averages. Tests share it."""
    home = tmp_path_factory.mktemp("home")
    # in the precision of the evaluations: if a CPU multiplies bfloat16 in hardware, a fit uses that
    short = ["--trainer.max_epochs", "3", "--trainer.precision", "32-true"]
    average = ["--trainer.callbacks+", "lightning.pytorch.callbacks.EMAWeightAveraging"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        patch.setenv("WANDB_MODE", "disabled")
        main(["fit", *DIGITS, *NO_TRACKER, *short, *average, "--trainer.callbacks.init_args.decay", "0.8"])
    return home


@pytest.fixture
def here(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory is `home`. A test leaves runs/ and best.ckpt as they are."""
    monkeypatch.chdir(home)
    return home
