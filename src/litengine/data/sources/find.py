"""Which image files the words on a command line mean: files, folders and globs."""

import glob
import os
from collections.abc import Iterable, Iterator
from difflib import get_close_matches

from .pixels import IMAGE_SUFFIXES
from .tree import LITTER

SUFFIXES = ", ".join(sorted(suffix.removeprefix(".") for suffix in IMAGE_SUFFIXES))


def find_images(words: Iterable[str]) -> list[str]:
    """The image files that `words` mean, in their order, each once; those of a folder or glob sorted by path.

    A file is taken whatever its name. A folder stands for the images anywhere below it, links followed: files with
    the suffix of an image, none of them hidden. A glob stands for such files and folders; `**` matches any folders.

    Raises:
        ValueError: for a word that means no image: not there (naming what is near), an empty folder, a glob that
            matches nothing.
        OSError: for a folder that cannot be read.
    """
    return list(dict.fromkeys(path for word in words for path in _find(os.path.expanduser(word))))


def _find(word: str) -> list[str]:
    if os.path.isfile(word):
        return [word]
    if os.path.isdir(word):
        if found := _below(word):
            return found
        raise ValueError(f"the folder {word} holds no images ({SUFFIXES})")
    if os.path.lexists(word):
        raise ValueError(f"{word} is neither a file nor a folder: a link to nothing, or a device")
    if not any(character in word for character in "*?["):
        raise ValueError(_not_there(word))
    matches = glob.glob(word, recursive=True)
    folders = {match for match in matches if os.path.isdir(match)}
    below = {path for folder in folders for path in _below(folder)}
    if found := sorted(below.union(filter(_is_image, folders.symmetric_difference(matches)))):
        return found
    raise ValueError(f"no image matches {word} ({SUFFIXES})")


def _below(folder: str) -> list[str]:
    return sorted(path for path in _files(folder, set()) if _is_image(path))


def _files(folder: str, entered: set[tuple[int, int]]) -> Iterator[str]:
    try:
        here = os.stat(folder)
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise OSError(f"cannot read the folder {folder}: {error.strerror}") from error
    if (here.st_dev, here.st_ino) in entered:  # a link to a folder above it, or one that was read already
        return
    entered.add((here.st_dev, here.st_ino))
    for name in names:
        path = os.path.join(folder, name)
        if name.startswith(".") or name.lower() in LITTER:
            continue
        if os.path.isdir(path):
            yield from _files(path, entered)
        else:
            yield path


def _is_image(path: str) -> bool:
    return os.path.splitext(path)[1].lower() in IMAGE_SUFFIXES


def _not_there(word: str) -> str:
    folder, name = os.path.split(word.rstrip(os.sep))
    if folder and not os.path.isdir(folder):
        return f"there is no folder {folder}, and so no {word}"
    near = get_close_matches(name, sorted(os.listdir(folder or ".")), 3)
    meant = f": did you mean {', '.join(os.path.join(folder, other) for other in near)}?" if near else ""
    return f"there is no file or folder {word}{meant}"
