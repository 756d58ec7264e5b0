"""One progress bar for everything that takes long: decoding, reading, downloading."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress_bar(description: str, total: int, unit: str = "images") -> Iterator[Callable[[int], None]]:
    """A rich bar on standard error; yields `advance(n)`, which any thread may call.

    Args:
        description: what is being done, in front of the bar.
        total: how many there are; 0 if that is not known. Below 500 images no bar is shown.
        unit: "images" or "bytes".
    """
    from rich import progress
    from rich.console import Console

    counts = progress.DownloadColumn() if unit == "bytes" else progress.MofNCompleteColumn()
    columns = (*progress.Progress.get_default_columns(), counts)
    hidden = unit == "images" and total < 500
    with progress.Progress(*columns, console=Console(stderr=True), disable=hidden) as bar:
        task = bar.add_task(description, total=total or None)
        yield lambda n: bar.advance(task, n)
