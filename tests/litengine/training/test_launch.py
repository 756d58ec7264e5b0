import multiprocessing
import os
from datetime import timedelta

import pytest
import torch.distributed
from processes import as_torchrun, free_port

from litengine.training import launch
from litengine.training.launch import agree, check_size

SHORT = timedelta(seconds=3)


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


def test_processes_that_torchrun_starts_again_do_not_get_the_old_answer():
    store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    first, second = (
        in_processes([torchrun(rank, 2, store.port, hosted=True, attempt=attempt) for rank in (0, 1)])
        for attempt in (0, 1)
    )
    assert first[0] == [f"decided by {first[2][0]}"] * 2
    assert second[0] == [f"decided by {second[2][0]}"] * 2


@pytest.mark.parametrize("code", [0, 3])
def test_where_the_first_ends_all_end_with_its_exit_code(code, port):
    def leave():
        raise SystemExit(code)

    answers, codes, _ = in_processes([torchrun(rank, 2, port) for rank in (0, 1)], leave)
    assert answers == [] and codes == [code, code]


def test_error_of_the_first_ends_all_and_is_told_once(port):
    def fail():
        raise OSError("no room")

    answers, codes, _ = in_processes([torchrun(rank, 3, port) for rank in range(3)], fail)
    assert answers == ["no room"] and codes == [0, 1, 1]


def test_missing_process_is_named(port, monkeypatch):
    monkeypatch.setattr(launch, "MEETING", SHORT)
    answers, _, _ = in_processes([torchrun(rank, 4, port) for rank in (0, 2)])
    assert answers[0].startswith(f"process 0 of 4 (counted from 0) waited 0.05 minutes at 127.0.0.1:{port} for 1, 3.")
    assert answers[1].startswith("process 2 of 4")


def test_first_process_that_does_not_come_is_named(port, monkeypatch):
    monkeypatch.setattr(launch, "MEETING", SHORT)
    answers, _, _ = in_processes([torchrun(1, 2, port)])
    assert answers[0].startswith(f"process 1 of 2 cannot meet the others at 127.0.0.1:{port}: ")


@pytest.mark.parametrize("end", [lambda: os._exit(9), lambda: os.kill(os.getpid(), 9)])
def test_first_process_that_dies_is_not_waited_for(end, port):
    answers, codes, _ = in_processes([torchrun(rank, 2, port) for rank in (0, 1)], end)
    # it was met and then silent, or gone before it was met
    assert len(answers) == 1 and answers[0].startswith("process 1 of 2 "), answers
    assert codes[0] in (9, -9)


def test_processes_that_lightning_starts_inherit_what_the_first_decided(monkeypatch):
    assert agree("run directory", lambda: "a") == "a"
    assert agree("checkpoint", lambda: "b") == "b"
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert agree("run directory", lambda: "c") == "a"
    assert agree("checkpoint", lambda: "c") == "b"
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert agree("run directory", lambda: "c") == "c"


@pytest.mark.parametrize("environment", [srun(0, 2, 1, job="bash"), srun(0, 1, 1), torchrun(0, 1, 1)])
def test_lone_process_waits_for_nobody(environment, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert agree("run directory", lambda: "alone") == "alone"


@pytest.mark.parametrize(
    ("environment", "machines", "processes", "message"),
    [
        ({}, 1, 4, None),  # which Lightning starts
        ({}, 2, 1, "trainer.num_nodes is 2, but this process was started alone"),
        (torchrun(0, 4, 1), 2, 2, None),
        (torchrun(0, 4, 1), 1, 2, "4 processes were started, but trainer.num_nodes 1 times trainer.devices 2 is 2"),
        (srun(1, 2, 1), 1, 2, None),
        (srun(1, 2, 1), 2, 2, "2 processes were started, but trainer.num_nodes 2 times trainer.devices 2 is 4"),
    ],
)
def test_what_was_started_is_compared_with_the_trainer(environment, machines, processes, message, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    if message is None:
        check_size(machines, processes)
    else:
        with pytest.raises(ValueError, match=message):
            check_size(machines, processes)
