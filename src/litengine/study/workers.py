"""Runs several children at the same time and passes signals on to them."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import TypeVar

import rich

from litengine.study.child import Child
from litengine.study.results import read_epochs

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
INTERVAL = 0.2  # seconds between two checks of the children
AnyChild = TypeVar("AnyChild", bound=Child)


def run_all(children: Iterator[AnyChild], number: int, ended: Callable[[AnyChild], bool]) -> int | None:
    """Runs up to `number` children at a time, which share the visible GPUs and the CPU cores.

    SIGINT, SIGTERM and SIGHUP ask all children to save and stop; a second signal asks them to exit at once.

    Args:
        children: is asked for the next child when a worker is free.
        ended: is called with every child that has ended. If it returns False, the other children are stopped.

    Returns:
        The signal that stopped the children, or None.
    """
    variables = shares(number) if number > 1 else [{}]
    active: dict[int, AnyChild] = {}  # by worker, 0 to number - 1
    stopped = False
    stopped_by: int | None = None

    def stop(received: int | None = None, _: FrameType | None = None) -> None:
        nonlocal stopped, stopped_by
        stopped, stopped_by = True, received or stopped_by
        for child in active.values():
            child.stop()

    handlers = {each: signal.signal(each, stop) for each in SIGNALS}
    try:
        with rich.get_console().status("") as status:
            while True:
                while not stopped and len(active) < number and (child := next(children, None)):
                    worker = min({*range(number)} - {*active})
                    child.variables = variables[worker]
                    active[worker] = child
                    if stopped:  # by a signal while the child was made
                        child.stop()
                if not active:
                    return stopped_by
                for worker, child in list(active.items()):
                    if child.poll() is not None:
                        del active[worker]
                        if not ended(child):
                            stop()
                epochs = [f"{child.name} epoch {len(read_epochs(child.run_dir)) + 1}" for child in active.values()]
                status.update(", ".join(epochs))
                time.sleep(INTERVAL)
    finally:
        stop()  # after an exception
        while any(child.poll() is None for child in active.values()):
            time.sleep(INTERVAL)
        for each, handler in handlers.items():
            signal.signal(each, handler)


def shares(number: int) -> list[dict[str, str]]:
    """The environment variables of `number` workers. Each gets every `number`th visible GPU, or shares one, and a part
    of the CPU cores; the user's own OMP_NUM_THREADS has precedence."""
    import torch

    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count()
    gpus = [name.strip() for name in given.split(",")][:count] if given else [str(index) for index in range(count)]
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, (os.cpu_count() or 1) // number))
    variables = [{"OMP_NUM_THREADS": threads} for _ in range(number)]
    for worker in range(number if gpus else 0):
        variables[worker]["CUDA_VISIBLE_DEVICES"] = ",".join(gpus[worker::number] or [gpus[worker % len(gpus)]])
    return variables
