"""Decode image files in parallel: batch after batch, or into one .npy array."""

import json
import os
import subprocess
import sys
from collections import deque
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from queue import SimpleQueue

import numpy as np
from numpy.typing import NDArray

from . import pixels
from .pixels import Failure, decode_batch
from .progress import SMALL, progress_bar

BATCH = 32
SMALL_BYTES = 20_000_000  # of image files: decoded in about a second

# uint8 (N, 3, size, size), and what failed; the rows of that are zero
Decoded = tuple[NDArray[np.uint8], list[Failure]]


def decode_files(paths: list[str], target: Path, size: int, description: str = "Decoding") -> list[Failure]:
    """Decode `paths`, in order, into the new file `target`: uint8 .npy (N, 3, size, size).

    Returns one (index, reason, opened) for each file that failed, in order; its row is zero. Raises OSError where
    `target` cannot be written.
    """
    header = {"descr": "|u1", "fortran_order": False, "shape": (len(paths), 3, size, size)}
    failures: list[Failure] = []
    with (
        target.open("wb") as file,
        progress_bar(description, len(paths)) as advance,
        closing(decode_batches(paths, size)) as batches,
    ):
        np.lib.format.write_array_header_1_0(file, header)
        # written, not mapped: a full disk is then an OSError, and not a SIGBUS that kills the process
        for images, failed in batches:
            file.write(images.data)
            failures += failed
            advance(len(images))
    return failures


def decode_batches(paths: list[str], size: int, batch: int = BATCH) -> Generator[Decoded, None, None]:
    """Decode `paths`, in order, `batch` at a time; the next ones while the caller works with the last.

    Processes, not threads: small images spend most of their time under Python's lock. The processes run `pixels.py`
    by itself, so that nothing imports torch or the user's main module once more. They end with the generator: close
    it where it is not read to its end.

    Yields images and failures, (index in `paths`, reason, opened) each. Raises OSError where a process dies.
    """
    batches = [paths[first : first + batch] for first in range(0, len(paths), batch)]
    if len(paths) < SMALL and sum(map(_bytes, paths)) < SMALL_BYTES:  # starting processes would take longer
        decoded: Generator[Decoded, None, None] = (decode_batch(some, size) for some in batches)
    else:
        decoded = _decode_with_workers(batches, size)
    with closing(decoded):
        first = 0
        for images, failures in decoded:
            yield images, [(first + index, reason, opened) for index, reason, opened in failures]
            first += len(images)


def _decode_with_workers(batches: list[list[str]], size: int) -> Generator[Decoded, None, None]:
    command = [sys.executable, pixels.__file__, str(size)]
    # Otherwise a file of this folder could hide a module of the standard library from the worker.
    environment = {**os.environ, "PYTHONSAFEPATH": "1"}
    count = min(_cores(), len(batches))
    idle: SimpleQueue[subprocess.Popen[bytes]] = SimpleQueue()

    def decode(some: list[str]) -> Decoded:
        worker = idle.get()
        try:
            return _ask(worker, some, size)
        finally:
            idle.put(worker)

    pipe = subprocess.PIPE
    with ExitStack() as stack:
        workers = [
            stack.enter_context(subprocess.Popen(command, stdin=pipe, stdout=pipe, env=environment))
            for _ in range(count)
        ]
        threads = stack.enter_context(ThreadPoolExecutor(count))
        for worker in workers:
            idle.put(worker)
            stack.callback(worker.kill)  # first of what is done at the end: they have nothing to lose
        stack.callback(threads.shutdown, wait=False, cancel_futures=True)
        pending: deque[Future[Decoded]] = deque()
        for some in batches:
            pending.append(threads.submit(decode, some))
            if len(pending) > 2 * count:  # as many again as are in work: bounds memory, and leaves no worker idle
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def _ask(worker: subprocess.Popen[bytes], paths: list[str], size: int) -> Decoded:
    assert worker.stdin is not None
    assert worker.stdout is not None
    images = np.empty((len(paths), 3, size, size), dtype=np.uint8)
    try:
        worker.stdin.write(json.dumps(paths).encode() + b"\n")
        worker.stdin.flush()
        line = worker.stdout.readline()
        received = worker.stdout.readinto(images.data.cast("B")) if line else 0  # type: ignore[attr-defined]
    except BrokenPipeError:
        received = 0
        with suppress(BrokenPipeError):  # once more, of what is still to be written
            worker.stdin.close()
    if received < images.nbytes:
        raise OSError("A process that decodes images ended unexpectedly (out of memory?): run it again.")
    return images, [(index, reason, opened) for index, reason, opened in json.loads(line)]


def _bytes(path: str) -> int:
    return os.path.getsize(path) if os.path.isfile(path) else 0


def _cores() -> int:
    """The cores this process may use: on a shared machine fewer than there are."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
