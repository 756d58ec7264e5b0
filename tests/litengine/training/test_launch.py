import multiprocessing
import os
from datetime import timedelta

import pytest
import torch.distributed
from processes import as_torchrun, free_port

from litengine.training import launch
from litengine.training.launch import agree


@pytest.fixture
def port():
    return free_port()


def torchrun(rank, size, port, hosted=False, attempt=0):
    kept = {"TORCHELASTIC_USE_AGENT_STORE": str(hosted), "TORCHELASTIC_RESTART_COUNT": str(attempt)}
    return as_torchrun(rank, size, port) | kept


def srun(rank, size, port, job="cnn"):
    return {
        "SLURM_NTASKS": str(size), "SLURM_NTASKS_PER_NODE": str(size), "SLURM_PROCID": str(rank),
        "SLURM_LOCALID": str(rank), "SLURM_NODEID": "0", "SLURM_JOB_NAME": job, "SLURM_JOB_ID": "17",
        "SLURM_NODELIST": "127.0.0.1", "MASTER_PORT": str(port),
    }  # fmt: skip


def process(environment, decide, answers):
    os.environ.update(environment)
    try:
        answers.put(agree("run directory", decide))
    except OSError as error:
        answers.put(str(error))


def in_processes(environments, decide=lambda: f"decided by {os.getpid()}"):
    """Answers and exit codes of processes with these environments, and the process ids."""
    fork = multiprocessing.get_context("fork")  # torch is imported already
    answers = fork.Queue()
    processes = [fork.Process(target=process, args=(each, decide, answers)) for each in environments]
    for each in processes:
        each.start()
    for each in processes:
        each.join(30)
    found = []
    while not answers.empty():
        found.append(answers.get())
    return sorted(found), [each.exitcode for each in processes], [each.pid for each in processes]


@pytest.mark.parametrize("launcher", [torchrun, srun])
def test_first_process_decides_for_all(launcher, port):
    answers, codes, pids = in_processes([launcher(rank, 3, port) for rank in (2, 1, 0)])
    assert answers == [f"decided by {pids[2]}"] * 3
    assert codes == [0, 0, 0]


def test_processes_that_torchrun_restarts_decide_again():
    store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    for attempt in (0, 1):
        environments = [torchrun(rank, 2, store.port, hosted=True, attempt=attempt) for rank in (0, 1)]
        answers, _, pids = in_processes(environments)
        assert answers == [f"decided by {pids[0]}"] * 2


@pytest.mark.parametrize(
    ("error", "reported", "ends"),
    [(SystemExit(0), [], [0, 0]), (SystemExit(3), [], [3, 3]), (OSError("no room"), ["no room"], [0, 1])],
)
def test_an_error_of_the_first_is_reported_once_and_ends_all(error, reported, ends, port):
    def fail():
        raise error

    answers, codes, _ = in_processes([torchrun(rank, 2, port) for rank in (0, 1)], fail)
    assert answers == reported and codes == ends


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_does_not_start_is_not_waited_for_without_end(rank, port, monkeypatch):
    monkeypatch.setattr(launch, "PATIENCE", timedelta(seconds=1))
    answers, _, _ = in_processes([torchrun(rank, 2, port)])
    assert answers[0].startswith(f"process {rank} cannot agree with the others at 127.0.0.1:{port}")


def test_a_first_process_that_dies_is_not_waited_for(port, monkeypatch):
    monkeypatch.setattr(launch, "PATIENCE", timedelta(seconds=3))  # of torch, if it was gone before the other started
    answers, codes, _ = in_processes([torchrun(rank, 2, port) for rank in (0, 1)], lambda: os.kill(os.getpid(), 9))
    assert len(answers) == 1 and answers[0].startswith("process 1 "), answers
    assert codes[0] == -9


def test_processes_that_lightning_starts_inherit_what_the_first_decided(monkeypatch):
    assert agree("run directory", lambda: "a") == "a"
    assert agree("checkpoint", lambda: "b") == "b"
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert agree("run directory", lambda: "c") == "a"
    assert agree("checkpoint", lambda: "c") == "b"
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert agree("run directory", lambda: "c") == "c"


@pytest.mark.parametrize("environment", [srun(0, 2, 1, job="bash"), srun(0, 1, 1), torchrun(0, 1, 1)])
def test_a_lone_process_waits_for_nobody(environment, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert agree("run directory", lambda: "alone") == "alone"
