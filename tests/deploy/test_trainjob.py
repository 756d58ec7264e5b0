"""deploy/trainjob.yaml against Kubeflow's own models of its API, and its command as two machines would run it."""

import copy
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from processes import free_port

HOUSE = Path(__file__).parents[2]
JOB: dict[str, Any] = yaml.safe_load((HOUSE / "deploy/trainjob.yaml").read_text())


def understood(job: dict[str, Any]) -> dict[str, Any]:
    """What Kubeflow's models keep of a job: they pass over what they do not know. ValueError where a type is wrong."""
    models = pytest.importorskip("kubeflow_trainer_api.models", reason="pip install kubeflow-trainer-api")
    kept: dict[str, Any] = models.TrainerV1alpha1TrainJob.from_dict(job).to_dict()
    return kept


def pod_of(job: dict[str, Any]) -> dict[str, Any]:
    (patch,) = job["spec"]["runtimePatches"]
    (node,) = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    pod: dict[str, Any] = node["template"]["spec"]["template"]["spec"]
    return pod


def test_job_is_one_that_kubeflow_knows() -> None:
    assert understood(JOB) == JOB


def misspelt(job: dict[str, Any]) -> None:
    job["spec"]["trainer"]["numNode"] = job["spec"]["trainer"].pop("numNodes")


def misplaced(job: dict[str, Any]) -> None:
    job["spec"]["volumes"] = []


def misspelt_deep_inside(job: dict[str, Any]) -> None:
    pod_of(job)["terminationGracePeriod"] = 60


def of_wrong_type(job: dict[str, Any]) -> None:
    job["spec"]["trainer"]["numNodes"] = "two"


@pytest.mark.parametrize("damage", [misspelt, misplaced, misspelt_deep_inside, of_wrong_type])
def test_check_would_find_mistakes(damage: Callable[[dict[str, Any]], None]) -> None:
    job = copy.deepcopy(JOB)
    damage(job)
    with suppress(ValueError):
        assert understood(job) != job


def test_numbers_agree() -> None:
    trainer = JOB["spec"]["trainer"]
    (script,) = trainer["args"]
    assert f"--trainer.num_nodes {trainer['numNodes']} --trainer.devices {trainer['numProcPerNode']} " in script
    assert trainer["resourcesPerNode"]["limits"]["nvidia.com/gpu"] == trainer["numProcPerNode"]
    pod = pod_of(JOB)
    assert {mount["name"] for mount in pod["containers"][0]["volumeMounts"]} == {
        each["name"] for each in pod["volumes"]
    }


@pytest.mark.slow
def test_its_command_trains_on_two_machines() -> None:
    """As two agents of torchrun on this one, told of each other as Kubeflow Trainer does it."""
    (script,) = JOB["spec"]["trainer"]["args"]
    for name in ("main.py", "configs"):  # as in the image
        Path(name).symlink_to(HOUSE / name)
    script = script.replace("--trainer.devices 4", "") + (
        " --trainer.devices 1 --trainer.max_epochs 1 --trainer.limit_train_batches 3 --trainer.limit_val_batches 1"
        " --trainer.logger false --data.source litengine.data.Digits --model.network.init_args.widths [4,4]"
    )
    address = {"PET_NNODES": "2", "PET_NPROC_PER_NODE": "1", "PET_MASTER_ADDR": "127.0.0.1"}
    environment = {**os.environ, **address, "PET_MASTER_PORT": str(free_port())}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    machines = [
        subprocess.Popen(
            [*JOB["spec"]["trainer"]["command"], script],
            env={**environment, "PET_NODE_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in (0, 1)
    ]
    printed = [machine.communicate(timeout=120)[0] for machine in machines]
    assert [machine.returncode for machine in machines] == [0, 0], printed
    (run,) = Path("runs").glob("cnn/*")
    assert (run / "checkpoints/last.ckpt").is_file()
    assert "2 x CPU" in printed[0] and "2 x CPU" not in printed[1]
