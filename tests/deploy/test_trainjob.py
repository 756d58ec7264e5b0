"""deploy/trainjob.yaml against Kubeflow's own models of its API, and its command as two machines run it."""

import copy
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from processes import free_port

ROOT = Path(__file__).parents[2]
JOB: dict[str, Any] = yaml.safe_load((ROOT / "deploy/trainjob.yaml").read_text())


def understood(job: dict[str, Any]) -> dict[str, Any]:
    """What Kubeflow's models keep of a job: they skip unknown names. ValueError if a type is wrong."""
    models = pytest.importorskip("kubeflow_trainer_api.models", reason="pip install kubeflow-trainer-api")
    kept: dict[str, Any] = models.TrainerV1alpha1TrainJob.from_dict(job).to_dict()
    return kept


def test_kubeflow_knows_every_field() -> None:
    assert understood(JOB) == JOB
    damaged = copy.deepcopy(JOB)
    damaged["spec"]["trainer"]["numNode"] = damaged["spec"]["trainer"].pop("numNodes")
    with suppress(ValueError):
        assert understood(damaged) != damaged


@pytest.mark.slow
def test_its_command_trains_on_two_machines() -> None:
    """Two agents of torchrun on this machine, with the variables that Kubeflow Trainer sets."""
    (script,) = JOB["spec"]["trainer"]["args"]
    for name in ("main.py", "configs"):  # as in the image
        Path(name).symlink_to(ROOT / name)
    script = script.replace("--trainer.devices 4", "") + (
        " --trainer.devices 1 --trainer.max_epochs 1 --trainer.limit_train_batches 3 --trainer.limit_val_batches 1"
        " --trainer.logger false --data.source litengine.data.Digits --model.network.init_args.widths [4,4]"
    )
    address = {"PET_NNODES": "2", "PET_NPROC_PER_NODE": "1", "PET_MASTER_ADDR": "127.0.0.1"}
    environment = {**os.environ, **address, "PET_MASTER_PORT": str(free_port())}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    command = [*JOB["spec"]["trainer"]["command"], script]
    machines = [
        subprocess.Popen(command, env={**environment, "PET_NODE_RANK": rank}, stdout=subprocess.PIPE, text=True)
        for rank in ("0", "1")
    ]
    printed = [machine.communicate(timeout=250)[0] for machine in machines]
    assert [machine.returncode for machine in machines] == [0, 0], printed
    (run,) = Path("runs").glob("cnn/*")
    assert (run / "checkpoints/last.ckpt").is_file()
    assert "2 x CPU" in printed[0] and "2 x CPU" not in printed[1]
