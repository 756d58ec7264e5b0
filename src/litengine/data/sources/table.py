"""Your own images, listed in a table."""

import csv
import hashlib
import os
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch

from .base import Arrays, Split
from .folder import ImageFolder
from .tree import SPLITS, Item, Tree

LISTED = 5  # problems in a message
MAX_BYTES = 2**29  # of a table: it is read into memory


class Row(NamedTuple):
    """An image of the table; `split` and `group` are empty if there is no such column."""

    path: str
    label: str
    split: str
    group: str


class CSV(ImageFolder):
    """Images listed in a CSV file with the columns `path`, `label`, and, if wanted, `split` and `group`.

    `split` is train, val or test for each row. Without this column, `test_fraction` of the images, or of the groups,
    becomes the test split. Images of one group, such as those of one patient, never lie in two splits: neither in
    those of the table nor in the validation images and folds that are cut from train. Other columns are ignored.

    Images are decoded and cached as by `ImageFolder`. Class names are the labels in the table, sorted; numbers by
    value.

    Args:
        table: the CSV file, UTF-8, with a header.
        root: the folder that paths in the table are relative to; by default that of the table.
        **settings: the other arguments of `ImageFolder`. `test_fraction` is the part that becomes the test split if the
            table has no column `split`.
    """

    file_arguments: ClassVar[tuple[str, ...]] = ("table", *ImageFolder.file_arguments)

    def __init__(self, table: str, root: str | None = None, **settings: Any) -> None:
        origin = Path(table).expanduser()
        super().__init__(root or str(origin.parent), **settings)
        self.origin = origin
        self._groups: dict[str, str] = {}  # by path

    def load(self, split: Split) -> Arrays | None:
        arrays = super().load(split)
        rows = read_table(self.origin)
        if arrays is None or not rows[0].group:
            return arrays
        group_of = {str(self.root / row.path): row.group for row in rows}
        assert arrays.paths is not None
        _, numbers = np.unique([group_of[path] for path in arrays.paths], return_inverse=True)
        return arrays._replace(groups=torch.from_numpy(numbers))

    def _fingerprint(self) -> str:
        digest = hashlib.sha256()
        for row in read_table(self.origin):
            digest.update("\0".join((*row, self._about(row.path), "\n")).encode("utf-8", "surrogateescape"))
        return digest.hexdigest()

    def _scan(self) -> Tree:
        rows = read_table(self.origin)
        self._groups = {row.path: row.group for row in rows}
        names = {row.label for row in rows}
        numeric = all(name.isdecimal() for name in names)
        class_names = sorted(names, key=lambda name: (int(name) if numeric else 0, name))
        if len(class_names) < 2:
            raise ValueError(f"{self.origin} has only the label {class_names[0]!r}; classification needs two or more")
        labels = {name: label for label, name in enumerate(class_names)}
        given = {row.split or "train" for row in rows}
        splits: dict[str, list[Item]] = {split: [] for split in SPLITS if split in given}
        bad = []
        for row in rows:
            if about := self._about(row.path):
                splits[row.split or "train"].append(Item(row.path, labels[row.label], about))
            else:
                bad.append(f"{row.path}: there is no such file")
        if len(bad) == len(rows):
            raise ValueError(
                f"no image of {self.origin} is in {self.root}, the folder that its paths are relative to: there is no "
                f"{self.root / rows[0].path}. Set --data.source.root, to null for the folder of the table; a config "
                "written for another source may have set it"
            )
        return Tree(class_names, splits, bool(rows[0].split), bad, [])

    def _unit(self, item: Item) -> str:
        return self._groups[item.path] or item.path

    def _about(self, path: str) -> str:
        """`Entry.about` of an image; empty if it is not a file."""
        try:
            status = os.stat(self.root / path)
        except OSError:
            return ""
        return f"{status.st_size} {status.st_mtime_ns}"


def read_table(path: Path) -> list[Row]:
    """The rows of a table, checked.

    Raises:
        OSError: if it cannot be read.
        ValueError: for missing columns, empty cells, unknown splits, repeated paths, or a group in two splits.
    """
    if path.exists() and not (path.is_file() and path.stat().st_size <= MAX_BYTES):  # a FIFO may have no end
        raise OSError(f"cannot read the table {path}: it is not a file, or has more than {MAX_BYTES:,} bytes")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            columns, cells = reader.fieldnames or [], list(reader)
    except OSError as error:
        raise type(error)(f"cannot read the table {path}: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} is not a CSV file in UTF-8: {error}") from error
    if not {"path", "label"} <= {*columns}:
        found = ", ".join(columns) or "none"
        raise ValueError(f"{path} needs the columns path and label, separated by commas; its columns are: {found}")
    if not cells:
        raise ValueError(f"{path} lists no images")
    rows = [Row(*((cell.get(name) or "").strip() for name in Row._fields)) for cell in cells]
    rows = [row._replace(path=row.path and os.path.normpath(row.path)) for row in rows]  # ./a is a
    problems = [f"the column {name} is there twice" for name in Row._fields if columns.count(name) > 1]
    problems += [f"row {line} has more cells than the header" for line, cell in enumerate(cells, 2) if None in cell]
    for line, row in enumerate(rows, start=2):  # line 1 is the header
        problems += [f"row {line} has no {name}" for name in Row._fields if name in columns and not getattr(row, name)]
    unknown = sorted({row.split for row in rows} - {*SPLITS, ""})
    problems += [f"the split {name!r} is unknown: train, val and test are allowed" for name in unknown]
    counts = Counter(row.path for row in rows)
    problems += [f"{name} is listed {count} times" for name, count in counts.items() if count > 1]
    splits_of: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        splits_of[row.group].add(row.split)
    crossing = {group: " and ".join(sorted(s)) for group, s in splits_of.items() if group and len(s) > 1}
    problems += [f"the group {group!r} is in {splits}" for group, splits in crossing.items()]
    if problems:
        more = f"; and {len(problems) - LISTED} more" if len(problems) > LISTED else ""
        raise ValueError(f"{path}: {'; '.join(problems[:LISTED])}{more}")
    return rows
