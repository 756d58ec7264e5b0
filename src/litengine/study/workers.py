"""Runs several children at the same time and passes signals on to them."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, Generic, TypeVar

from litengine.study.child import Child

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
INTERVAL = 0.2  # seconds between two checks of the children
AnyChild = TypeVar("AnyChild", bound=Child)


class Workers(Generic[AnyChild]):
    """Runs up to `number` children at a time, all watched by one thread.

    Within the `with` block SIGINT, SIGTERM and SIGHUP ask all children to save and stop; a second signal asks them to
    exit at once. The children share the visible GPUs and the CPU cores.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self.stopped_by: int | None = None
        self._closed = False
        self._active: dict[int, AnyChild] = {}  # by slot, 0 to number - 1
        self._handlers: dict[int, Any] = {}
        self._gpus = visible_gpus() if number > 1 else []

    def __enter__(self) -> "Workers[AnyChild]":
        self._handlers = {number: signal.signal(number, self._on_signal) for number in SIGNALS}
        return self

    def __exit__(self, *error: object) -> None:
        try:
            if self._active:  # only after an exception
                self.stop()
                for child in self._active.values():
                    child.wait()
        finally:
            for number, handler in self._handlers.items():
                signal.signal(number, handler)

    def run(self, children: Iterator[AnyChild], watch: Callable[[AnyChild], None] | None = None) -> Iterator[AnyChild]:
        """Yields every child that has ended. `children` is asked for the next one when a worker is free; `watch` is
        called with every active child, a few times a second."""
        import rich

        with rich.get_console().status("") as status:
            while True:
                while not self._closed and len(self._active) < self.number and (child := next(children, None)):
                    slot = min({*range(self.number)} - {*self._active})
                    if self.number > 1:
                        child.devices = share(self._gpus, slot, self.number)
                        child.threads = max(1, (os.cpu_count() or 1) // self.number)
                    self._active[slot] = child
                if not self._active:
                    return
                for slot, child in list(self._active.items()):
                    code = child.poll()
                    if watch:
                        watch(child)
                    if code is not None:
                        del self._active[slot]
                        yield child
                status.update(", ".join(child.status() for child in self._active.values()))
                time.sleep(INTERVAL)

    def stop(self) -> None:
        """Starts no more children and asks the active ones to save and stop."""
        self._closed = True
        for child in self._active.values():
            child.stop()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.stopped_by = number
        self.stop()


def share(gpus: list[str], slot: int, number: int) -> str | None:
    """CUDA_VISIBLE_DEVICES of one of `number` workers: every `number`th GPU, or a shared one; None without GPUs."""
    return ",".join(gpus[slot::number] or [gpus[slot % len(gpus)]]) if gpus else None


def visible_gpus() -> list[str]:
    """Names of the visible GPUs as in CUDA_VISIBLE_DEVICES."""
    import torch

    count = torch.cuda.device_count()
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    return [name.strip() for name in given.split(",")][:count] if given else [str(index) for index in range(count)]
