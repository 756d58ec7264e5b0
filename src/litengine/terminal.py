"""Lines and tables on the terminal."""

from collections.abc import Sequence
from typing import Any

import rich
from lightning.pytorch.utilities import rank_zero_only
from rich.text import Text

from litengine.files import visible


def listed(names: Sequence[str], most: int = 6) -> str:
    """Names for a line: all, or of more than `most` the first ones, the last one, and their number."""
    if len(names) <= most:
        return ", ".join(names)
    return f"{', '.join(names[: most - 1])}, …, {names[-1]} ({len(names)} in all)"


@rank_zero_only
def print_line(content: Any) -> None:
    """Prints text with rich markup, or a rich table, above the progress bar. Only the first process prints.

    Text from a file of a stranger may be in a line: its control characters are spelled out.
    """
    if isinstance(content, Text):
        content.plain = visible(content.plain)
    elif isinstance(content, str):
        content = visible(content)
    rich.get_console().print(content, highlight=False, soft_wrap=True)
