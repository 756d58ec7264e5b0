"""Decode image files in parallel into one .npy array."""

import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import IO

import numpy as np

from . import pixels
from .pixels import Failure, decode_batch
from .progress import SMALL, progress_bar

BATCH = 32


def decode_files(paths: list[str], target: Path, size: int, description: str = "Decoding") -> list[Failure]:
    """Decode `paths`, in order, into the new file `target`: uint8 .npy (N, 3, size, size).

    Processes, not threads: small images spend most of their time under Python's lock. The processes run `pixels.py`
    by itself, so that nothing imports torch or the user's main module once more.

    Returns one (index, reason, opened) for each file that failed, in order; its row is zero. Raises OSError where
    `target` cannot be written.
    """
    np.lib.format.open_memmap(target, mode="w+", dtype=np.uint8, shape=(len(paths), 3, size, size))  # header, holes
    offset = target.stat().st_size - len(paths) * 3 * size * size

    failures: list[Failure] = []
    with progress_bar(description, len(paths)) as advance:

        def done(first: int, found: list[Failure]) -> None:
            failures.extend(found)
            advance(len(paths[first : first + BATCH]))

        if len(paths) < SMALL:  # starting processes would take longer than decoding
            with target.open("r+b", buffering=0) as file:
                for first in range(0, len(paths), BATCH):
                    done(first, decode_batch(paths[first : first + BATCH], first, size, file, offset))
        else:
            _decode_with_workers(paths, [str(target), str(size), str(offset)], done)
    return sorted(failures)


def _decode_with_workers(paths: list[str], arguments: list[str], done: Callable[[int, list[Failure]], None]) -> None:
    batches: queue.SimpleQueue[int] = queue.SimpleQueue()
    for first in range(0, len(paths), BATCH):
        batches.put(first)
    command = [sys.executable, pixels.__file__, *arguments]
    # Otherwise a file of this folder could hide a module of the standard library from the worker.
    environment = {**os.environ, "PYTHONSAFEPATH": "1"}
    stop = threading.Event()
    lock = threading.Lock()

    def serve_one_worker() -> None:
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdin=pipe, stdout=pipe, env=environment, text=True) as worker:
            assert worker.stdin is not None
            assert worker.stdout is not None
            while not stop.is_set():
                try:
                    first = batches.get_nowait()
                except queue.Empty:
                    break
                failures = _ask(worker.stdin, worker.stdout, first, paths[first : first + BATCH])
                with lock:
                    done(first, failures)

    workers = min(_cores(), batches.qsize())
    with ThreadPoolExecutor(workers) as threads:
        try:
            for future in as_completed([threads.submit(serve_one_worker) for _ in range(workers)]):
                future.result()
        finally:
            stop.set()  # after an error or Ctrl-C the other workers end with their batch


def _ask(stdin: IO[str], stdout: IO[str], first: int, paths: list[str]) -> list[Failure]:
    try:
        stdin.write(json.dumps([first, paths]) + "\n")
        stdin.flush()
        line = stdout.readline()
    except BrokenPipeError:
        line = ""
    if not line:
        raise OSError("A process that decodes images ended unexpectedly (out of memory?): run it again.")
    answer = json.loads(line)
    if "failures" not in answer:
        raise OSError(answer["errno"], answer["error"])
    return [(index, reason, opened) for index, reason, opened in answer["failures"]]


def _cores() -> int:
    """The cores this process may use: on a shared machine fewer than there are."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
