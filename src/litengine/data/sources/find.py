"""Expands files, folders and globs to image paths."""

import glob
import logging
import os
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path

from .pixels import is_image
from .tree import walk

log = logging.getLogger(__name__)

NAMED = 5  # of the skipped paths


def find_images(words: Iterable[str]) -> list[str]:
    """The image files that `words` mean, in their order, each once; those of a folder or glob sorted by path.

    A file is taken whatever it is. A folder means the images anywhere below it, links followed: files with the suffix
    or the content of an image format, except hidden ones and leftovers of systems. A glob means such files and
    folders; `**` matches any folders. A warning counts the skipped entries.

    Raises:
        ValueError: for a word without an image: missing (with similar names), an empty folder, a glob without match.
        OSError: for a folder that cannot be read.
    """
    found: list[str] = []
    left_out: set[str] = set()
    for word in map(os.path.expanduser, words):
        if os.path.lexists(word) and not os.path.isdir(word):
            found.append(word)
            continue
        if os.path.isdir(word):
            matches, problem = [word], f"the folder {word} holds no images"
        elif glob.has_magic(word):
            matches, problem = glob.glob(word, recursive=True), f"no image matches {word}"
        else:
            raise ValueError(_not_there(word))
        candidates: dict[str, bool] = {}  # whether it may be an image
        for match in matches:
            candidates |= _below(match) if os.path.isdir(match) else {match: True}
        images = {path for path, may_be in candidates.items() if may_be and is_image(path)}
        if not images:
            raise ValueError(problem)
        found += sorted(images)
        left_out |= candidates.keys() - images
    if names := sorted(left_out - {*found}):
        more = ", …" if len(names) > NAMED else ""
        log.warning("%d entries are not images and are skipped: %s%s", len(names), ", ".join(names[:NAMED]), more)
    return list(dict.fromkeys(found))


def _below(folder: str) -> dict[str, bool]:
    """All paths below a folder, but those of folders; leftovers of systems with False."""
    entries = (entry for entry in walk(Path(folder)) if entry.kind != "folder")
    return {os.path.join(folder, entry.path): entry.kind != "leftover" for entry in entries}


def _not_there(word: str) -> str:
    folder, name = os.path.split(word.rstrip(os.sep))
    if folder and not os.path.isdir(folder):
        return f"there is no folder {folder}, and so no {word}"
    near = get_close_matches(name, sorted(os.listdir(folder or ".")), 3)
    meant = f": did you mean {', '.join(os.path.join(folder, other) for other in near)}?" if near else ""
    return f"there is no file or folder {word}{meant}"
