"""Studies as a user runs them: real fits, each in its own process (tests/litengine/study trains nothing)."""

import shlex
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import yaml
from outcome import outcome
from studies import kill_with_children, rows, wait_for
from wandb import wandb_agent
from wandb_file import WandbFile, find

from litcnn.__main__ import main

CONFIGS = Path(__file__).parents[2] / "configs"
SWEEP = CONFIGS / "sweep.yaml"
TINY = [
    "--config", str(CONFIGS / "digits.yaml"), "--model.network.init_args.widths=[4,4]",
    "--trainer.limit_train_batches=3", "--trainer.max_epochs=2", "--trainer.precision=32-true",
]  # fmt: skip
PROGRAM = [sys.executable, "-m", "litcnn"]
LONGER = [*PROGRAM, "study", *TINY, "--folds", "3", "--trainer.max_epochs=3", "--trainer.limit_train_batches=15"]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("uninterrupted")
    subprocess.run(LONGER, cwd=home, check=True, capture_output=True, timeout=580)
    return home / "runs/digits-3-folds"


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("injury", ["SIGTERM", "SIGKILL", "SIGKILL of the study alone"])
def test_an_interrupted_study_ends_with_the_same_numbers_and_weights(
    injury: str, uninterrupted: Path, tmp_path: Path
) -> None:
    program = subprocess.Popen(LONGER, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    directory = tmp_path / "runs/digits-3-folds"
    second = "fold-1/*/metrics.csv"
    wait_for(lambda: any(len(path.read_text().splitlines()) > 2 for path in directory.glob(second)), 500)
    kill_with_children(program.pid) if injury == "SIGKILL" else program.send_signal(getattr(signal, injury.split()[0]))
    printed, _ = program.communicate(timeout=200)
    assert program.returncode == (143 if injury == "SIGTERM" else -9), printed
    assert not (directory / "study.csv").exists()
    subprocess.run(LONGER, check=True, capture_output=True, timeout=580)
    assert rows(directory) == rows(uninterrupted)
    for fold in ("fold-0", "fold-1", "fold-2"):
        (run,), (expected,) = (list(study.glob(f"{fold}/*/metrics.csv")) for study in (directory, uninterrupted))
        assert outcome(run.parent) == outcome(expected.parent)


@pytest.mark.slow
def test_every_fold_validates_on_other_images_and_the_table_has_what_validate_measures(
    uninterrupted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = {row["run"]: float(row["val/acc"]) for row in rows(uninterrupted)}
    held_out = []
    for fold in range(3):
        (best,) = uninterrupted.glob(f"fold-{fold}/*/checkpoints/best.ckpt")
        config = torch.load(best, weights_only=True)["config"]
        assert (config["data"]["folds"], config["data"]["fold"]) == (3, fold)
        main(["validate", "--ckpt_path", str(best)])
        printed = capsys.readouterr().out
        held_out.append(int(printed.split("val images: ")[1].split()[0]))
        assert f"val/acc  │ {table[f'fold-{fold}']:.4f}" in printed
    assert sum(held_out) == 1437  # all training images


SPY = """
from litengine.data import Digits

class Spy(Digits):
    def load(self, split):
        with open("loaded.txt", "a") as file:
            file.write(split + "\\n")
        return super().load(split)
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_test_set_is_read_only_if_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path.cwd()))
    Path("spy.py").write_text(SPY)
    study = ["study", *TINY, "--data.source", "spy.Spy", "--trust", "spy", "--name", "seeds"]
    main([*study, "--seeds", "0"])
    assert Counter(Path("loaded.txt").read_text().split()) == {"train": 1, "val": 1}
    assert "test/acc" not in rows("runs/seeds")[0]
    # one more, tested after its fit, and the one that is there
    main([*study, "--seeds", "0..1", "--test", "true"])
    assert Counter(Path("loaded.txt").read_text().split()) == {"train": 2, "val": 2, "test": 2}
    table = rows("runs/seeds")[:2]
    assert all(0 <= float(row["test/acc"]) <= 1 for row in table) and len({row["val/acc"] for row in table}) == 2


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_search_with_two_workers_runs_each_trial_once_as_one_group_of_wandb(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    space = yaml.safe_load(SWEEP.read_text())
    space["parameters"]["data.batch_size"] = {"values": [32, 48]}
    Path("space.yaml").write_text(yaml.safe_dump(space))
    main(["study", *TINY, "--space", "space.yaml", "--trials", "3", "--workers", "2"])
    directory = tmp_path / "runs/digits-space"
    assert [path.name for path in sorted(directory.glob("trial-*"))] == ["trial-0", "trial-1", "trial-2"]
    for row in rows(directory):
        (run,) = filter(Path.is_dir, directory.glob(f"trial-{row['trial']}/*"))
        config = yaml.safe_load((run / "config.yaml").read_text())
        max_lr = config["model"]["lr_scheduler"]["init_args"]["max_lr"]
        assert max_lr == float(row["model.lr_scheduler.init_args.max_lr"])
        assert config["model"]["network"]["init_args"]["hidden"] == int(row["model.network.init_args.hidden"])
        assert config["data"]["batch_size"] == int(row["data.batch_size"])
        (recorded,) = find(run)
        assert WandbFile(recorded).group == "digits-space"
    # the command at the end does what it says
    command = capsys.readouterr().out.rpartition("python main.py ")[2].strip()
    main([*shlex.split(command), "--config", str(CONFIGS / "with/no_tracker.yaml"), "--name", "again"])
    assert [*tmp_path.glob("runs/again/*/checkpoints/best.ckpt")]


def words_of_agent(values: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The words after main.py of the process that the installed agent of Weights & Biases starts for configs/sweep.yaml
    and the settings that the server sent."""
    process = mock.MagicMock()
    monkeypatch.setattr(wandb_agent, "AgentProcess", process)
    for name in ("WANDB_RUN_ID", "WANDB_SWEEP_ID", "WANDB_SWEEP_PARAM_PATH", "WANDB_DIR"):
        monkeypatch.setenv(name, "")  # the agent sets them in this process: taken back at the end
    monkeypatch.delenv("WANDB_DIR")
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep123")
    sweep = yaml.safe_load(SWEEP.read_text())
    agent = wandb_agent.Agent(api=None, queue=None, sweep_id="sweep123")
    agent._sweep_command = sweep["command"]
    args = {key: {"value": value} for key, value in values.items()}
    answer = agent._process_command({"type": "run", "run_id": "abcd1234", "program": sweep["program"], "args": args})
    assert "exception" not in answer, answer
    assert process.call_args.kwargs["env"]["WANDB_RUN_ID"] == "abcd1234"
    interpreter, python, program, *words = process.call_args.kwargs["command"]
    assert (interpreter, python, program) == ("/usr/bin/env", "python", "main.py")
    return words


def test_the_command_line_of_an_agent_sets_every_value(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("configs").symlink_to(CONFIGS)
    values = {
        "model.lr_scheduler.init_args.max_lr": 6.2e-05,
        "model.optimizer.init_args.weight_decay": 1.3e-06,
        "model.network.init_args.dropout": 0.25,
        "model.network.init_args.hidden": 96,
        "data.batch_size": 32,
    }
    assert values.keys() == yaml.safe_load(SWEEP.read_text())["parameters"].keys()
    values |= {
        "model.channels_last": False,
        "model.network.init_args.widths": [8, 16],
        "model.network.init_args.activation": "torch.nn.GELU",
    }
    with pytest.raises(SystemExit) as stopped:
        main([*words_of_agent(values, monkeypatch), "--print_config"])
    assert stopped.value.code == 0
    config = yaml.safe_load(capsys.readouterr().out)
    for key, value in values.items():
        found = config
        for part in key.split("."):
            found = found[part]
        assert found == value, key
