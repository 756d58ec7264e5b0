"""One progress bar for whatever takes long: decoding, reading, downloading."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

# Fewer images than this are done before a bar could be read.
SMALL = 500


@contextmanager
def progress_bar(description: str, total: int, unit: str = "images") -> Iterator[Callable[[int], None]]:
    """A rich bar on standard error; yields `advance(n)`, which may be called from any thread.

    Args:
        description: what is being done, in front of the bar.
        total: how many there are; 0 where it is not known. Below 500 images there is no bar.
        unit: "images" or "bytes".
    """
    from rich import progress
    from rich.console import Console

    amount = progress.DownloadColumn() if unit == "bytes" else progress.MofNCompleteColumn()
    bar = progress.Progress(
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        amount,
        progress.TimeElapsedColumn(),
        progress.TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=unit == "images" and total < SMALL,
    )
    with bar:
        task = bar.add_task(description, total=total or None)
        yield lambda n: bar.advance(task, n)
