"""Lines and tables on the terminal."""

from typing import Any

import rich
from lightning.pytorch.utilities import rank_zero_only


@rank_zero_only
def print_line(content: Any) -> None:
    """Prints text with rich markup, or a rich table, above the progress bar. Only the first process prints."""
    rich.get_console().print(content, highlight=False, soft_wrap=True)
