"""Real processes that train together on one machine, over gloo, without the seconds that it takes to import torch."""

import multiprocessing
import os
import queue
import signal
import socket
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback  # imported here, and not in each process


def free_port() -> int:
    with socket.socket() as any_free:
        any_free.bind(("127.0.0.1", 0))
        return int(any_free.getsockname()[1])


def as_torchrun(rank: int, size: int, port: int) -> dict[str, str]:
    """The environment that torchrun gives to a process; the first one keeps the store."""
    return {
        "TORCHELASTIC_RUN_ID": "none", "TORCHELASTIC_USE_AGENT_STORE": "False", "TORCHELASTIC_RESTART_COUNT": "0",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(rank), "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size), "GROUP_RANK": "0",
    }  # fmt: skip


def together(size: int, function: Callable[..., Any], *arguments: Any, seconds: float = 250) -> list[Any]:
    """What `function(*arguments)` returns in each of so many processes, by rank. It is called after a fork, so that it
    may be any function."""
    fork, port = multiprocessing.get_context("fork"), free_port()
    answers: Any = fork.Queue()

    def process(rank: int) -> None:
        os.environ.update(as_torchrun(rank, size, port))
        try:
            answers.put((rank, function(*arguments), None))
        except BaseException:
            answers.put((rank, None, traceback.format_exc()))

    processes = [fork.Process(target=process, args=(rank,)) for rank in range(size)]
    for each in processes:
        each.start()
    found: dict[int, Any] = {}
    try:
        for _ in processes:
            rank, answer, error = answers.get(timeout=seconds)
            assert error is None, f"process {rank} of {size}: {error}"
            found[rank] = answer
    except queue.Empty:
        raise AssertionError(f"only {sorted(found)} of {size} processes ended within {seconds} s") from None
    finally:
        for each in processes:
            each.kill()
            each.join()
    return [found[rank] for rank in range(size)]


class StopAfter(Callback):
    """Asks the last of the processes to stop."""

    def __init__(self, step: int, number: int = signal.SIGTERM) -> None:
        self.step = step
        self.number = number

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == self.step - 1 and trainer.global_rank == trainer.world_size - 1:
            os.kill(os.getpid(), self.number)


class WaitAt(Callback):
    """Makes a file `waiting` before a step of a fit, and waits for a signal or a file `go`: a test can injure the fit.

    The first process waits, once in a folder: a resumed fit does not. The others wait for its gradients.
    """

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == self.step and trainer.is_global_zero and not Path("waiting").exists():
            Path("waiting").touch()
            (stop,) = (each for each in trainer.callbacks if type(each).__name__ == "StopOnSignal")
            while not stop._received and not Path("go").exists():
                time.sleep(0.02)
