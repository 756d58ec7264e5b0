"""deploy/slurm.sbatch on a real SLURM, where one can be started."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from outcome import digest
from processes import together
from program import last
from slurm_cluster import cluster, why_not

from litcnn.__main__ import main
from litengine.training.run_directory import read_state

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "deploy/slurm.sbatch"
HERE = ["--nodes=1", "--ntasks-per-node=2", "--gpus-per-node=0", "--cpus-per-task=1", "--time=10"]
FIT = [
    "--config", "configs/with/no_tracker.yaml", "--data.source", "litengine.data.Digits", "--data.batch_size", "33",
    "--model.network", "plain.Plain", "--model.optimizer", "torch.optim.SGD", "--model.optimizer.init_args.lr", "0.05",
    "--trainer.limit_train_batches", "10", "--trainer.limit_val_batches", "2", "--trainer.log_every_n_steps", "5",
    "--trainer.max_epochs", "3", "--trainer.enable_model_summary", "false",
    "--trainer.callbacks+", "processes.WaitAt", "--trainer.callbacks.step", "15",
]  # fmt: skip


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    if reason := why_not():
        pytest.skip(reason)
    with cluster(tmp_path_factory.mktemp("slurm")) as environment:
        yield {**environment, "PYTHONPATH": os.pathsep.join(sys.path)}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What the script takes for the project."""
    (tmp_path / ".venv/bin").mkdir(parents=True)
    python = tmp_path / ".venv/bin/python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    for name in ("main.py", "configs"):
        (tmp_path / name).symlink_to(ROOT / name)
    return tmp_path


def submit(slurm: dict[str, str]) -> str:
    command = ["sbatch", "--parsable", *HERE, str(SCRIPT), *FIT]
    found = subprocess.run(command, env=slurm, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    return found.stdout.strip()


def scontrol(slurm: dict[str, str], *words: str) -> str:
    return subprocess.run(["scontrol", *words], env=slurm, check=True, capture_output=True, text=True).stdout


def wait_for(slurm: dict[str, str], job: str, condition: Callable[[str], Any]) -> None:
    """Until the condition holds for what SLURM says about the job."""
    end = time.monotonic() + 200
    while not condition(shown := scontrol(slurm, "show", "job", job)):
        assert time.monotonic() < end, f"{shown}\n{Path(f'slurm-{job}.log').read_text()}"
        time.sleep(0.1)


@pytest.mark.slow
def test_job_that_is_out_of_time_goes_on_where_it_was(slurm: dict[str, str], checkout: Path) -> None:
    job = submit(slurm)
    wait_for(slurm, job, lambda _: Path("waiting").exists())
    # as SLURM does before the time limit
    subprocess.run(["scancel", "--signal=USR1", job], env=slurm, check=True)
    wait_for(slurm, job, lambda shown: "JobState=PENDING" in shown and "Restarts=1" in shown)
    (run,) = Path("runs").glob(f"litcnn-{job}/*")
    assert read_state(run) == "stopped"
    assert last(run)["global_step"] == 16
    assert not list(run.rglob("hpc_ckpt*"))  # which Lightning would write in the middle of a batch
    # SLURM would wait for two minutes; but in the second in which it stopped a job, it starts none of its number
    scontrol(slurm, "update", f"JobId={job}", "StartTime=now+3seconds")
    wait_for(slurm, job, lambda shown: "JobState=COMPLETED" in shown)
    assert list(Path("runs").glob("*/*")) == [run] and read_state(run) == "finished"
    log = Path(f"slurm-{job}.log").read_text()
    assert log.count("fit --resume last") == 1 and log.count("resumed at epoch") == 1

    two = ["--config", "configs/with/ddp.yaml", "--trainer.devices", "2", "--name", "whole"]
    together(2, main, ["fit", *FIT, *two])
    (whole,) = Path("runs").glob("whole/*")
    for part in ("global_step", "state_dict", "optimizer_states"):  # the same bits
        assert digest(last(run)[part]) == digest(last(whole)[part]), part


@pytest.mark.slow
def test_task_that_dies_ends_the_job(slurm: dict[str, str], checkout: Path) -> None:
    job = submit(slurm)
    wait_for(slurm, job, lambda _: Path("waiting").exists())
    pids = scontrol(slurm, "listpids", job).splitlines()[1:]  # PID JOBID STEPID LOCALID GLOBALID
    (second,) = {int(line.split()[0]) for line in pids if line.split()[4] == "1"}
    os.kill(second, signal.SIGKILL)
    wait_for(slurm, job, lambda shown: "JobState=FAILED" in shown)
    (run,) = Path("runs").glob(f"litcnn-{job}/*")
    assert read_state(run) in ("failed", "running")  # both can be resumed
