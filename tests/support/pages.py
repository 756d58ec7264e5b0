"""The code on a Markdown page: every fenced or indented block, and the commands in it."""

import re
import shlex
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
FENCE = re.compile(r"(```+)(.*)")
TITLE = re.compile(r'title="([^"]+)"')


class Block(NamedTuple):
    """A block of code.

    Attributes:
        page: its path in the repository.
        line: where its text begins, from 1.
        language: of a fence, as written; "commands" of an indented block.
        title: the file that it is, where the fence says so: ```python title="my_networks.py".
        text: without fence or indent.
    """

    page: str
    line: int
    language: str
    title: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line} ({self.text.splitlines()[0].strip()} …)"


def pages() -> list[str]:
    """README.md and docs/*.md, as paths in the repository."""
    return ["README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]


def blocks(page: str) -> list[Block]:
    """All code on a page, in its order."""
    found: list[Block] = []
    lines = (ROOT / page).read_text("utf-8").splitlines()
    number = 0
    while number < len(lines):
        start = number
        if fence := FENCE.match(lines[number]):
            ticks, about = fence.groups()
            number = lines.index(ticks, number + 1)
            title = TITLE.search(about)
            language = about.split()[0] if about.strip() else ""
            text = "\n".join(lines[start + 1 : number])
            found.append(Block(page, start + 2, language, title[1] if title else "", text))
        elif lines[number].startswith("    ") and (number == 0 or not lines[number - 1].strip()):
            while number < len(lines) and (lines[number].startswith("    ") or not lines[number].strip()):
                number += 1
            text = "\n".join(line[4:] for line in lines[start:number]).rstrip()
            found.append(Block(page, start + 1, "commands", "", text))
            continue
        number += 1
    return found


def commands(block: Block) -> list[list[str]]:
    """The words of each command of a block: lines that end in a backslash joined, comments left out."""
    text = re.sub(r"\\\n\s*", "", block.text)
    return [words for line in text.splitlines() if (words := shlex.split(line, comments=True))]
