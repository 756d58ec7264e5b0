"""The program and a stand-in for W&B's server: what has arrived equals metrics.csv, value by value."""

import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from wandb_stand_in import Run, StandIn, values_in

CONFIGS = Path(__file__).parents[2] / "configs"
FIT = [
    "fit", f"--config={CONFIGS}/digits.yaml", "--model.network.init_args.widths=[4,4]", "--trainer.accelerator=cpu",
    "--trainer.limit_train_batches=6", "--trainer.log_every_n_steps=2", "--trainer.max_epochs=2",
]  # fmt: skip
pytestmark = pytest.mark.slow


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    stand_in = StandIn()
    monkeypatch.delenv("WANDB_MODE")
    for name, value in {**stand_in.environment, "WANDB_X_FILE_STREAM_TRANSMIT_INTERVAL": "1"}.items():
        monkeypatch.setenv(name, value)
    yield stand_in
    stand_in.close()


def run(module: str, *arguments: str) -> str:
    """What it prints."""
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=900)
    assert done.returncode == 0, done.stdout
    return done.stdout


def equal(recorded: Run) -> int:
    """The number of values of a run, which are those of its metrics.csv."""
    (state,) = [path for path in Path("runs").glob("*/*/state.json") if recorded.name in path.read_text()]
    values = values_in(state.with_name("metrics.csv"))
    assert recorded.values == values
    return len(values)


def test_two_processes(server: StandIn) -> None:
    assert "W&B online" in run("litcnn", *FIT, "--trainer.devices=2")
    (recorded,) = server.runs.values()
    assert equal(recorded) > 20 and recorded.states == ["running", "finished"]


@pytest.mark.timeout(900)
def test_a_sweep_of_four_runs_of_which_the_agent_stops_one(server: StandIn) -> None:
    command = [sys.executable, "-m", "litcnn", *FIT, "${args}"]
    sweep = {"method": "random", "program": "main.py", "command": command, "parameters": {}}
    Path("sweep.yaml").write_text(yaml.safe_dump(sweep))
    server.sweep_runs = [{"data.batch_size": size} for size in (32, 64)] + [{"trainer.max_epochs": 10**6}, {}]

    def stop_the_long_run() -> None:
        while "run1" not in server.runs or not server.runs["run1"].history:
            time.sleep(0.2)
        server.stopped.add("run1")

    threading.Thread(target=stop_the_long_run, daemon=True).start()
    name = re.findall(r"wandb agent (\S+)", run("wandb", "sweep", "--project=litcnn", "sweep.yaml"))[0]
    assert "failed" not in run("wandb", "agent", name)
    assert sorted(server.runs) == ["run0", "run1", "run2", "run3"]
    for recorded in server.runs.values():
        assert equal(recorded) > 10 and (recorded.states, recorded.exit_code) == (["running", "finished"], 0)
