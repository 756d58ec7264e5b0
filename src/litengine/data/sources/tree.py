"""Which image files a folder holds, and which class and split each belongs to."""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from .pixels import IMAGE_SUFFIXES

SPLITS = ("train", "val", "test")
# What file managers leave behind, besides hidden files.
LITTER = frozenset({"__macosx", "desktop.ini", "thumbs.db"})
EXPECTED = "expected <root>/<class>/*.jpg (or .png, …) or <root>/train|val|test/<class>/*.jpg"

# (path relative to the root, with "/", label)
Item = tuple[str, int]


@dataclass(frozen=True)
class Tree:
    """What `scan` found.

    Attributes:
        class_names: sorted; from train/ where the root has splits.
        splits: the images of each split, sorted by class and path; all of them in "train" where the root has none.
        has_splits: whether the layout is root/train|val|test/<class>.
        foreign: files in class folders that are no images by their suffix, and images in no class folder.
    """

    class_names: list[str]
    splits: dict[str, list[Item]]
    has_splits: bool
    foreign: list[str]


def fingerprint(root: Path) -> tuple[str, bool]:
    """(a hash, whether the root has splits). The hash changes when any file or folder appears or disappears, and when
    a file changes its size or time. Memory does not grow with the number of files. Raises as `scan` does."""
    folders: set[str] = set()
    digest = hashlib.sha256()
    for path, stat in _look(root):
        about = "folder" if stat is None else f"{stat.st_size}\0{stat.st_mtime_ns}"
        digest.update(f"{path}\0{about}\n".encode("utf-8", "surrogateescape"))
        if stat is None:
            folders.add(path)
    return digest.hexdigest(), _has_splits(root, folders)


def scan(root: Path) -> Tree:
    """Read the folder's names, not its files. Raises OSError where it cannot be read, ValueError where it holds
    something else than class folders with images."""
    files, folders = [], set()
    for path, stat in _look(root):
        if stat is None:
            folders.add(path)
        else:
            files.append(path)

    has_splits = _has_splits(root, folders)
    if not has_splits:
        splits, foreign = _classify(root, "", files, folders)
        found = {"train": splits}
    else:
        found, foreign = {}, [path for path in files if "/" not in path and _is_image(path)]
        for split in SPLITS:
            if split in folders:
                found[split], strangers = _classify(root, f"{split}/", files, folders)
                foreign += strangers
    class_names = sorted(found["train"])
    if len(class_names) < 2:
        where = root / "train" if has_splits else root
        known = f"only one class, {class_names[0]!r}" if class_names else "no class folders"
        raise ValueError(f"{where} holds {known}; classification needs two or more: {EXPECTED}.")
    for split, classes in found.items():
        if unknown := sorted(set(classes) - set(class_names)):
            raise ValueError(f"{root / split} holds the class {unknown[0]!r}, which {root / 'train'} does not have.")
    labels = {name: label for label, name in enumerate(class_names)}
    return Tree(
        class_names=class_names,
        splits={
            split: [(path, labels[name]) for name in sorted(classes) for path in classes[name]]
            for split, classes in found.items()
        },
        has_splits=has_splits,
        foreign=sorted(foreign),
    )


def _look(root: Path) -> Iterator[tuple[str, os.stat_result | None]]:
    if not root.exists():
        raise FileNotFoundError(f"The image folder {root} does not exist ({root.absolute()}): {EXPECTED}.")
    if not root.is_dir():
        raise NotADirectoryError(f"{root} is a file, not a folder: {EXPECTED}.")
    return _walk(root, "", ())


def _walk(root: Path, folder: str, above: tuple[tuple[int, int], ...]) -> Iterator[tuple[str, os.stat_result | None]]:
    """(path, stat) of every file below, (path, None) of every folder, sorted, following links."""
    try:
        here = (root / folder).stat()
        if (here.st_dev, here.st_ino) in above:
            raise OSError(f"{root / folder} is a link to a folder above it: remove it.")
        with os.scandir(root / folder) as entries:
            visible = [e for e in entries if not e.name.startswith(".") and e.name.lower() not in LITTER]
        for entry in sorted(visible, key=lambda entry: entry.name):
            path = f"{folder}/{entry.name}" if folder else entry.name
            if entry.is_dir():
                yield path, None
                yield from _walk(root, path, (*above, (here.st_dev, here.st_ino)))
            else:
                yield path, entry.stat()
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(f"Cannot read {error.filename or root / folder}: {error.strerror}.") from error


def _has_splits(root: Path, folders: set[str]) -> bool:
    """Whether the folders under the root are splits. `train` may also be a class, beside `car` and `plane`: it is a
    split only where it holds folders itself."""
    top = {folder for folder in folders if "/" not in folder}
    if not any(folder.startswith("train/") for folder in folders):
        if top and top <= set(SPLITS):
            raise ValueError(f"{root} holds {'/, '.join(sorted(top))}/ but no class folders in train/: {EXPECTED}.")
        return False
    if others := sorted(top - set(SPLITS)):
        raise ValueError(
            f"{root} holds train/ with class folders, and also {others[0]}/: beside train only val and test are "
            "allowed. Rename it or move it away."
        )
    return True


def _classify(root: Path, prefix: str, files: list[str], folders: set[str]) -> tuple[dict[str, list[str]], list[str]]:
    """The images of each class folder under `prefix`, sorted; and the foreign files there."""
    below = [folder.removeprefix(prefix) for folder in folders if folder.startswith(prefix)]
    classes: dict[str, list[str]] = {name: [] for name in below if name and "/" not in name}
    foreign = []
    for path in files:
        if not path.startswith(prefix):
            continue
        name, _, rest = path.removeprefix(prefix).partition("/")
        if rest and _is_image(path):
            classes[name].append(path)
        elif rest or _is_image(path):  # a readme beside the class folders does no harm
            foreign.append(path)
    for name in sorted(classes):
        if not classes[name]:
            kinds = ", ".join(sorted(suffix.removeprefix(".") for suffix in IMAGE_SUFFIXES))
            raise ValueError(
                f"The class folder {root / prefix / name} holds no images ({kinds}): add some or remove it."
            )
        classes[name].sort()
    return classes, foreign


def _is_image(path: str) -> bool:
    return PurePosixPath(path).suffix.lower() in IMAGE_SUFFIXES
