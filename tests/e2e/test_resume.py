"""A run that was interrupted anywhere and resumed ends with the same bits as one that was not."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from outcome import outcome

from litcnn.__main__ import main
from litengine.training import Checkpoints
from litengine.training.run_directory import read_state

CONFIGS = Path(__file__).parents[2] / "configs"
SHORT = [
    "--config", str(CONFIGS / "with/no_tracker.yaml"), "--trainer.max_epochs", "3", "--data.batch_size", "32",
    "--trainer.limit_train_batches", "4", "--trainer.limit_val_batches", "2", "--trainer.log_every_n_steps", "2",
    "--data.source", "litengine.data.Digits", "--model.network.init_args.widths", "[8, 8]",
]  # fmt: skip
ARTICLE = ["--config", str(CONFIGS / "cnn.yaml"), *SHORT, "--model.network.init_args.hidden", "16"]

PROGRAM = [sys.executable, "-m", "litcnn", "fit"]
LONGER = [*PROGRAM, *ARTICLE]
LONGER += ["--trainer.limit_train_batches", "30", "--trainer.max_epochs", "3"]


def only_run(home: Path) -> Path:
    (run,) = (home / "runs").glob("*/*")
    return run


RECIPES = {
    "plateau": [*ARTICLE, "--model.lr_scheduler.init_args.patience", "0"],
    "cosine": [*ARTICLE, "--config", str(CONFIGS / "with/cosine.yaml")],
    "one_cycle": [*ARTICLE, "--config", str(CONFIGS / "with/one_cycle.yaml")],
    "accumulated": [*ARTICLE, "--trainer.accumulate_grad_batches", "2"],
    "ema": [*ARTICLE, "--trainer.callbacks+", "lightning.pytorch.callbacks.EMAWeightAveraging"],
    "mixing": [*ARTICLE, "--model.mixing", "torchvision.transforms.v2.CutMix"],
    "fast": ["--config", str(CONFIGS / "fast.yaml"), *SHORT],
}


QUICK = ("plateau", "fast")  # one of each: stepped once an epoch, and at every step


@pytest.mark.parametrize("recipe", [pytest.param(r, marks=[pytest.mark.slow] * (r not in QUICK)) for r in RECIPES])
def test_every_checkpoint_of_a_run_leads_to_the_same_end(
    recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Saves after every batch that may be saved after, keeps a copy of the whole run directory each time, and resumes
    from every copy."""
    copies: list[Path] = []
    bests: list[Path] = []
    save = Checkpoints._save

    def save_and_copy(self: Checkpoints, trainer: Any, name: str) -> None:
        save(self, trainer, name)
        if name == "best.ckpt":  # all that is left where the others are damaged
            bests.append(tmp_path / f"best{len(bests)}")
            shutil.copytree(trainer.default_root_dir, bests[-1], ignore=shutil.ignore_patterns("last*", "previous*"))
        if name == "last.ckpt" and trainer.global_step < trainer.estimated_stepping_batches:
            copies.append(tmp_path / f"copy{len(copies)}")
            shutil.copytree(trainer.default_root_dir, copies[-1])

    arguments = ["fit", *RECIPES[recipe]]
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "_save", save_and_copy)
        main([*arguments, "--checkpoints.every_n_minutes", "0"])
    run = only_run(tmp_path)
    expected = outcome(run)
    # after three of four batches (one, where two batches make a step), and at the end of two epochs
    assert len(copies) == (3 * 1 + 2 if recipe == "accumulated" else 3 * 3 + 2)
    different = {}
    for copy in copies + bests:
        shutil.rmtree(run)
        shutil.copytree(copy, run)
        main(["fit", "--resume", str(run)])
        found = outcome(run)
        if wrong := [name for name in expected if found[name] != expected[name]]:
            different[copy.name] = wrong
    assert not different


SIGNALS = {"SIGKILL": -9, "SIGTERM": 143, "SIGINT": 130}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    home = tmp_path_factory.mktemp("uninterrupted")
    subprocess.run(LONGER, cwd=home, check=True, capture_output=True, timeout=120)
    return outcome(only_run(home))


@pytest.mark.slow
@pytest.mark.parametrize("injury", ["SIGKILL", "SIGTERM", "SIGINT"])
def test_a_program_that_is_stopped_can_be_resumed_to_the_same_bits(
    injury: str, tmp_path: Path, uninterrupted: dict[str, Any]
) -> None:
    program = subprocess.Popen(LONGER, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    wait_for(lambda: any(len(run.read_text().splitlines()) > 4 for run in tmp_path.glob("runs/*/*/metrics.csv")))
    program.send_signal(getattr(signal, injury))
    printed, _ = program.communicate(timeout=60)
    assert program.returncode == SIGNALS[injury], printed
    run = only_run(tmp_path)
    if injury != "SIGKILL":
        assert "fit --resume last" in printed and "Traceback" not in printed
        assert read_state(run) == "stopped"
        assert torch.load(run / "checkpoints/last.ckpt", weights_only=True)["global_step"] < 60
    done = subprocess.run([*PROGRAM, "--resume", "last"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert outcome(run) == uninterrupted
    assert read_state(run) == "finished"

    with pytest.raises(SystemExit) as stopped:
        main(["fit", "--resume", "last"])
    assert stopped.value.code == 0
    assert outcome(run) == uninterrupted


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.parametrize("who", ["first", "second"])
def test_of_two_processes_either_may_be_asked_to_stop(who: str, tmp_path: Path) -> None:
    """Stock Lightning waits for ever where only the second one is."""
    two = ["--trainer.accelerator", "cpu", "--trainer.devices", "2", "--trainer.max_epochs", "1000"]
    program = subprocess.Popen([*LONGER, *two], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    wait_for(lambda: any(len(run.read_text().splitlines()) > 4 for run in tmp_path.glob("runs/*/*/metrics.csv")), 120)
    (second,) = Path(f"/proc/{program.pid}/task/{program.pid}/children").read_text().split()
    os.kill(program.pid if who == "first" else int(second), signal.SIGTERM)
    printed, _ = program.communicate(timeout=60)
    assert program.returncode == 143, printed
    assert torch.load(only_run(tmp_path) / "checkpoints/last.ckpt", weights_only=True)["global_step"] > 0
    wait_for(lambda: not Path(f"/proc/{second}/cmdline").exists() or not Path(f"/proc/{second}/cmdline").read_bytes())
