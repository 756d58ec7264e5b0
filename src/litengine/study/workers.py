"""Runs several children at a time, and passes on what the study is told."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from types import FrameType, TracebackType
from typing import Any

from litengine.study.child import Child

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
INTERVAL = 0.2  # seconds between two looks at the children


class Workers:
    """Keeps up to `number` children at work; one thread watches all of them.

    Within the `with` block SIGINT, SIGTERM and SIGHUP ask all children to save and stop; a second one has them leave at
    once. Where GPUs are visible, the children share them out among themselves, and the processor's cores likewise.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self.stopped_by: int | None = None
        self._closed = False
        self._at_work: dict[int, Child] = {}  # by place, 0 to number - 1
        self._before: dict[int, Any] = {}
        self._gpus = visible_gpus() if number > 1 else []

    def __enter__(self) -> "Workers":
        self._before = {number: signal.signal(number, self._on_signal) for number in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._at_work:  # only where something went wrong
                self.stop()
                for child in self._at_work.values():
                    child.wait()
        finally:
            for number, handler in self._before.items():
                signal.signal(number, handler)

    def run(self, next_child: Callable[[], Child | None], watch: Callable[[Child], None]) -> Iterator[Child]:
        """Yields every child that has ended, until there are no more.

        Args:
            next_child: gives the next one whenever there is room; None for no more at the moment.
            watch: called with every child at work, a few times a second.
        """
        while True:
            while not self._closed and len(self._at_work) < self.number and (child := next_child()):
                place = min({*range(self.number)} - {*self._at_work})
                self._share(child, place)
                self._at_work[place] = child
            if not self._at_work:
                return
            for place, child in list(self._at_work.items()):
                code = child.poll()
                watch(child)
                if code is not None:
                    del self._at_work[place]
                    yield child
            time.sleep(INTERVAL)

    def stop(self) -> None:
        """Starts nothing more, and has every child save its state and leave."""
        self._closed = True
        for child in self._at_work.values():
            child.stop()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.stopped_by = number
        self.stop()

    def _share(self, child: Child, place: int) -> None:
        if self.number == 1:
            return
        if self._gpus:
            child.devices = ",".join(share(self._gpus, place, self.number))
        child.threads = max(1, (os.cpu_count() or 1) // self.number)


def share(devices: list[str], place: int, number: int) -> list[str]:
    """The devices for one of `number` workers: every `number`th, or where there are fewer than workers one of them."""
    return devices[place::number] or [devices[place % len(devices)]]


def visible_gpus() -> list[str]:
    """As CUDA_VISIBLE_DEVICES names them."""
    import torch

    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = given.split(",") if given else [str(index) for index in range(torch.cuda.device_count())]
    return [name.strip() for name in names][: torch.cuda.device_count()]
