"""Which files a folder holds, and which class and split each belongs to."""

import hashlib
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from .pixels import is_image

SPLITS = ("train", "val", "test")
EXPECTED = "expected <root>/<class>/*.jpg (or .png, …) or <root>/train|val|test/<class>/*.jpg"
# Folders and files that operating systems, file managers and network drives leave behind, besides hidden ones.
LEFTOVERS = {
    *("#recycle", "#snapshot", "$recycle.bin", "@eadir", "@recently-snapshot", "@recycle", "__macosx", "__pycache__"),
    *("desktop.ini", "ehthumbs.db", "icon\r", "lost+found", "recycled", "recycler", "system volume information"),
    "thumbs.db",
}
# The name of a split as others write it: Train, training_set, test-images, valid, seg_train, …
SPLIT_NAME = re.compile(
    r"(?:^|[^a-z])(train|test|val|valid|validat|dev|eval|evaluat|holdout)(?:ion|ing|set|data|images?|s)*(?:$|[^a-z])"
)
DEEPEST = 100  # folders in each other
OFTEN = 100  # times that links may lead to one folder: 25 folders with two links to the next one have 2**25 paths
SPECIAL = ("/proc", "/sys", "/dev")  # folders without images, and without end


class Entry(NamedTuple):
    """What a folder holds at `path`, relative to it and with "/". `about` changes when the content of a file does; of
    a bad entry it is the reason why it cannot be read."""

    path: str
    kind: Literal["file", "folder", "leftover", "bad"]
    about: str = ""


class Item(NamedTuple):
    """An image: its path relative to the root, its label, and `Entry.about`."""

    path: str
    label: int
    about: str


class Tree(NamedTuple):
    """What `scan` found."""

    class_names: list[str]  # sorted; from train/ if the root has splits
    splits: dict[str, list[Item]]  # of each split, sorted by class and path; all in "train" if the root has none
    has_splits: bool
    bad: list[str]  # what cannot be an image of a class, with the reason
    skipped: list[str]  # paths of leftovers of systems, and of files outside class folders that are not images


def is_endless(folder: str) -> bool:
    """Whether a folder, through links, takes minutes to search: the whole disk, or one that is on no disk."""
    real = Path(os.path.realpath(folder))
    return real == Path(real.anchor) or any(map(real.is_relative_to, SPECIAL))


def walk(
    root: Path,
    cache: Path | None = None,
    folder: str = "",
    above: tuple[tuple[int, int], ...] = (),
    entered: Counter[tuple[int, int]] | None = None,
) -> Iterator[Entry]:
    """All entries below `root`, sorted, links followed; nothing is opened. The folder `cache` is not entered.

    Raises OSError if `root` cannot be read; an entry below it that cannot be read is a bad one.
    """
    entered = Counter() if entered is None else entered
    try:
        status = os.stat(os.path.join(root, folder))
        here = (status.st_dev, status.st_ino)
        entered[here] += 1
        if here in above or len(above) > DEEPEST:
            yield Entry(folder, "bad", "is too deep, or a link to a folder above it")
            return
        if entered[here] > OFTEN:
            yield Entry(folder, "bad", f"has more than {OFTEN} links that lead to it")
            return
        with os.scandir(os.path.join(root, folder)) as listing:
            entries = sorted(listing, key=lambda entry: entry.name)
    except OSError as error:
        if not folder:
            raise OSError(f"Cannot read {root}: {error.strerror}.") from error
        yield Entry(folder, "bad", f"cannot be read: {error.strerror}")
        return
    for entry in entries:
        path = f"{folder}/{entry.name}" if folder else entry.name
        try:
            if entry.name.startswith(".") or entry.name.lower() in LEFTOVERS:
                yield Entry(path, "leftover")
            elif not entry.is_dir():
                status = entry.stat()
                yield Entry(path, "file", f"{status.st_size} {status.st_mtime_ns}")
            elif entry.is_symlink() and is_endless(entry.path):
                yield Entry(path, "bad", "is a link to the whole disk, or to a folder of the system")
            elif cache is None or not (cache.exists() and cache.samefile(entry.path)):
                yield Entry(path, "folder")
                yield from walk(root, cache, path, (*above, here), entered)
        except OSError as error:  # a link to nothing, or in a circle
            yield Entry(path, "bad", f"cannot be read: {error.strerror}")


def fingerprint(root: Path, cache: Path | None = None) -> str:
    """A hash that changes when any file or folder appears or disappears, or a file changes its size or time. Memory
    does not grow with the number of files. Arguments and errors are those of `scan`."""
    digest = hashlib.sha256()
    for entry in _entries(root, cache):
        if entry.kind != "leftover":
            digest.update("\0".join((*entry, "\n")).encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def scan(root: Path, cache: Path | None = None) -> Tree:
    """Read the names in a folder; the folder `cache` in it is skipped.

    Raises OSError if it cannot be read, ValueError if its layout is not understood.
    """
    entries = list(_entries(root, cache))
    inside: dict[str, list[str]] = defaultdict(list)  # the names of the folders in each folder
    for entry in entries:
        if entry.kind == "folder":
            above, _, name = entry.path.rpartition("/")
            inside[above].append(name)
    has_splits = _has_splits(root, inside)
    above_classes = {split: split for split in SPLITS if split in inside[""]} if has_splits else {"train": ""}
    depth = 1 if has_splits else 0  # of the class folders
    with_files = {entry.path.rpartition("/")[0] for entry in entries if entry.kind == "file"}
    filled = {"/".join(entry.path.split("/")[: depth + 1]) for entry in entries if entry.kind in ("file", "bad")}
    class_names = inside[above_classes["train"]]
    for split, folder in above_classes.items():
        where, classes = root / folder, {f"{folder}/{name}".lstrip("/"): name for name in inside[folder]}
        _check_classes(where, {name: inside[path] for path, name in classes.items()}, bool(with_files & {*classes}))
        if split == "train" and len(classes) < 2:
            found = f"only one class, {class_names[0]!r}" if classes else "no class folders"
            raise ValueError(f"{where} holds {found}; classification needs two or more: {EXPECTED}.")
        unknown = [name for name in inside[folder] if name not in class_names]
        if unknown or not classes:
            found = f"the class {unknown[0]!r}, which {root / 'train'} does not have" if unknown else "no class folders"
            raise ValueError(
                f"{where} holds {found}. If its images have no labels: use `predict` for them, and move {split}/ out "
                f"of {root}."
            )
        for path in classes:
            if path not in filled:
                raise ValueError(f"The class folder {root / path} holds no images: add some or remove it.")

    labels = {name: label for label, name in enumerate(class_names)}
    items: dict[str, list[Item]] = {split: [] for split in above_classes}
    bad, skipped = [], []
    for path, kind, about in entries:
        parts = path.split("/")
        if kind == "bad":
            bad.append(f"{path}: {about}")
        elif kind == "file" and len(parts) >= depth + 2:
            items[parts[0] if has_splits else "train"].append(Item(path, labels[parts[depth]], about))
        elif kind == "file" and is_image(str(root / path)):
            bad.append(f"{path}: is in no class folder")
        elif kind != "folder":
            skipped.append(path)
    for found_items in items.values():
        found_items.sort(key=lambda item: (item.label, item.path))
    return Tree(class_names, items, has_splits, sorted(bad), skipped)


def _entries(root: Path, cache: Path | None) -> Iterator[Entry]:
    if not root.exists():
        raise FileNotFoundError(f"The image folder {root} does not exist ({root.absolute()}): {EXPECTED}.")
    if not root.is_dir():
        raise NotADirectoryError(f"{root} is a file, not a folder: {EXPECTED}.")
    return walk(root, cache)


def _split_of(name: str) -> str | None:
    """The split that a folder of this name probably is."""
    found = SPLIT_NAME.search(name.casefold())
    return {"train": "train", "test": "test"}.get(found[1], "val") if found else None


def _has_splits(root: Path, inside: dict[str, list[str]]) -> bool:
    """Whether the folders in the root are splits. `train` and `valid` may also be classes, beside `car` and `invalid`:
    a folder is a split only if it holds folders. Raises ValueError for splits with other names.
    """
    top = inside[""]
    if inside["train"]:
        if others := [name for name in top if name not in SPLITS]:
            split = _split_of(others[0])
            advice = f"is it {split}/? Then rename it. Else" if split in ("val", "test") else "please"
            raise ValueError(
                f"{root} holds train/ with class folders, and also {others[0]}/: {advice} move it away. Beside train/ "
                "only val/ and test/ are allowed."
            )
        return True
    looks = sorted(filter(_split_of, top))
    if looks and (len(looks) == len(top) or any(inside[name] for name in looks)):
        raise ValueError(
            f"{root} holds {'/, '.join(looks)}/, which look like splits, but there are no class folders in train/. "
            f"Name the splits train/, val/ and test/, with one folder a class in each: {EXPECTED}."
        )
    return False


def _check_classes(where: Path, classes: dict[str, list[str]], have_files: bool) -> None:
    """Raises ValueError if the folders in class folders (by class) look like splits, or like the classes. `have_files`
    says whether any class folder holds files itself."""
    for name, below in classes.items():
        if len(set(map(_split_of, below)) - {None}) >= 2:
            raise ValueError(
                f"{where / name} holds {'/, '.join(below)}/: splits belong above the classes, not below: {EXPECTED}."
            )
    most = max(classes.values(), key=len, default=[])
    alike = all(below and set(below) <= set(most) for below in classes.values())
    # folders that are only numbered may be parts of a class
    if len(classes) >= 2 and len(most) >= 2 and alike and not have_files and not all(map(str.isdigit, most)):
        raise ValueError(
            f"The folders {', '.join(list(classes)[:3])}, … in {where} all hold folders of the same names "
            f"({', '.join(most[:3])}, …). Which are the classes? Put them directly into {where}: {EXPECTED}."
        )
