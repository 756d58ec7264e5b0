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

NAMED = 5  # of the paths that are left out


def find_images(words: Iterable[str]) -> list[str]:
    """The image files that `words` mean, in their order, each once; those of a folder or glob sorted by path.

    A file is taken whatever it is. A folder means the images anywhere below it, links followed: files with the suffix
    or the content of an image format, except hidden ones and leftovers of systems. A glob means such files and
    folders; `**` matches any folders. A warning counts what is left out.

    Raises:
        ValueError: for a word without an image: missing (with similar names), an empty folder, a glob without match.
        OSError: for a folder that cannot be read.
    """
    found: list[str] = []
    left_out: list[str] = []
    for word in map(os.path.expanduser, words):
        if os.path.isdir(word):
            candidates = _below(word, left_out)
            problem = f"the folder {word} holds no images"
        elif os.path.lexists(word):
            found.append(word)
            continue
        elif glob.has_magic(word):
            candidates = []
            for match in sorted(glob.glob(word, recursive=True)):
                candidates += _below(match, left_out) if os.path.isdir(match) else [match]
            problem = f"no image matches {word}"
        else:
            raise ValueError(_not_there(word))
        images = sorted(set(filter(is_image, candidates)))
        left_out += sorted(set(candidates) - set(images))
        if not images:
            raise ValueError(problem)
        found += images
    if left_out := [path for path in dict.fromkeys(left_out) if path not in found]:
        more = ", …" if len(left_out) > NAMED else ""
        log.warning("%d entries are no images and are left out: %s%s", len(left_out), ", ".join(left_out[:NAMED]), more)
    return list(dict.fromkeys(found))


def _below(folder: str, left_out: list[str]) -> list[str]:
    files = []
    for entry in walk(Path(folder)):
        path = os.path.join(folder, entry.path)
        if entry.kind in ("leftover", "bad") and not (entry.kind == "bad" and is_image(path)):
            left_out.append(path)
        elif entry.kind != "folder":
            files.append(path)
    return files


def _not_there(word: str) -> str:
    folder, name = os.path.split(word.rstrip(os.sep))
    if folder and not os.path.isdir(folder):
        return f"there is no folder {folder}, and so no {word}"
    near = get_close_matches(name, sorted(os.listdir(folder or ".")), 3)
    meant = f": did you mean {', '.join(os.path.join(folder, other) for other in near)}?" if near else ""
    return f"there is no file or folder {word}{meant}"
