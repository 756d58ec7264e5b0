"""Checkpoint files: an intact one exists at any moment, each is verified before it is read, and none can run code."""

import errno
import io
import os
import pickle
import shutil
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import Tensor

LAST, PREVIOUS, BEST = "last.ckpt", "previous.ckpt", "best.ckpt"
NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class Newest(NamedTuple):
    """The checkpoint to resume from, if any, and what is wrong with each damaged one beside it."""

    path: Path | None
    step: int
    skipped: list[str]


class CheckpointFiles(TorchCheckpointIO):
    """How the Trainer writes and reads checkpoints.

    Lightning's own class writes to $TMPDIR and moves the file, which across file systems is a copy onto the old
    checkpoint; flushes nothing; loads a file with flipped bits; and unpickles whatever comes from an http address.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        if storage_options is not None or "://" in str(path):
            raise ValueError(f"{path}: checkpoints are written to local files, without storage options")
        save(checkpoint, Path(path))

    def load_checkpoint(self, path: str | Path, map_location: Any = None, weights_only: Any = None) -> dict[str, Any]:
        """Only plain data and tensors are unpickled, whatever `weights_only` is."""
        content: dict[str, Any] = _load(path, map_location=map_location or "cpu")
        return content

    def remove_checkpoint(self, path: str | Path) -> None:
        """Removes one local file, if it is a checkpoint.

        Lightning's ModelCheckpoint restores the path from the checkpoint that a fit starts from, which may be a
        stranger's. It compares the folder with its own, but lets addresses and ".." pass, and removes whole folders.
        """
        file = Path(path)
        if "://" not in str(path) and ".." not in file.parts and file.suffix == ".ckpt" and file.is_file():
            file.unlink()


def save(checkpoint: dict[str, Any], path: Path) -> None:
    """Writes a checkpoint completely or not at all; a `last.ckpt` that it replaces is kept as `previous.ckpt`.

    Raises:
        OSError: if it cannot be written; says why, and where to resume. Existing files are unchanged.
        ValueError: if it holds more than tensors and plain data.
    """
    partial = path.with_name(f".{path.name}.partial")  # the same directory: a rename can never become a copy
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with partial.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            if code := _code_in(partial):
                raise ValueError(
                    f"{path} was not written: it holds {code}, which cannot be loaded again. Keep only tensors, "
                    "numbers, strings, lists and dicts in the state of callbacks and modules"
                )
            _put_in_place(partial, path)
        finally:
            partial.unlink(missing_ok=True)
    except (OSError, RuntimeError) as error:  # torch makes a RuntimeError of what the file raises
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, OSError):
            cause = cause.__cause__ or cause.__context__
        if cause is None:
            raise
        failure = OSError(_why_not_written(checkpoint, path, cause))
        failure.errno = cause.errno  # set later, it is not part of the message
        raise failure from error


def read(path: str | Path) -> dict[str, Any]:
    """The content of a checkpoint, on the CPU, memory-mapped.

    Raises:
        FileNotFoundError: if there is no such file; names the checkpoints beside it.
        ValueError: if it is damaged, holds code, or is not a checkpoint of this project.
    """
    content = _load(path, map_location="cpu", mmap=True)
    if not isinstance(content, dict) or "config" not in content or not isinstance(content.get("data"), dict):
        raise ValueError(f"{path} is not a checkpoint of this project: it carries no config")
    return content


def newest_intact(directory: str | Path) -> Newest:
    """The first intact one of `last.ckpt`, `previous.ckpt` and `best.ckpt`, which may be epochs old."""
    skipped: list[str] = []
    for name in (LAST, PREVIOUS, BEST):
        path = Path(directory) / name
        try:
            return Newest(path, int(read(path).get("global_step", 0)), skipped)
        except FileNotFoundError:
            continue
        except (ValueError, OSError) as error:
            skipped.append(str(error))
    return Newest(None, -1, skipped)


def check_same_network(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    """Raises ValueError if weights of one are missing in the other or have another shape."""
    differences = [f"{name} is missing in the checkpoint" for name in ours if name not in theirs]
    differences += [f"{name} is only in the checkpoint" for name in theirs if name not in ours]
    differences += [
        f"{name} has shape {list(theirs[name].shape)} in the checkpoint, {list(value.shape)} here"
        for name, value in ours.items()
        if name in theirs and theirs[name].shape != value.shape
    ]
    if differences:
        more = f"; and {len(differences) - 3} more" if len(differences) > 3 else ""
        raise ValueError(
            f"the checkpoint is of another network: {'; '.join(differences[:3])}{more}. Leave the --model options out "
            "to get the checkpoint's own network"
        )


def _put_in_place(partial: Path, path: Path) -> None:
    previous, kept = path.with_name(PREVIOUS), path.with_name(f".{PREVIOUS}.partial")
    kept.unlink(missing_ok=True)  # of a process that was killed in this function
    if path.name == LAST and path.exists():
        try:
            os.link(path, kept)
        except OSError:  # a file system without hard links: for a moment there is no last, but an intact previous
            os.replace(path, previous)
    os.replace(partial, path)
    if kept.exists():  # only now: the old last may be damaged, and then the older previous is needed
        os.replace(kept, previous)
    with suppress(OSError):  # Windows does not open a directory, and some network file systems do not flush it
        descriptor = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _why_not_written(checkpoint: dict[str, Any], path: Path, error: OSError) -> str:
    said, remedy = f"cannot write {path}: {error.strerror or error}", "make the directory writable"
    if error.errno in NO_ROOM:
        remedy, whole = "make room", io.BytesIO()
        torch.save(checkpoint, whole)
        free = shutil.disk_usage(path.parent).free
        said += f"; {whole.tell() / 1e6:,.1f} MB are needed, {free / 1e6:,.1f} MB are free"
    newest, steps, _ = newest_intact(path.parent)
    if newest is None:
        return f"{said}. Nothing was saved before: {remedy}, and start again"
    return f"{said}. {newest} (step {steps}) is whole: {remedy}, then `fit --resume {path.parent.parent}` continues"


def _load(path: str | Path, **options: Any) -> Any:
    if "://" in str(path):
        raise ValueError(f"{path} is an address, but checkpoints are read from local files: download it first")
    file = Path(path)
    near = ", ".join(str(other) for other in sorted(file.parent.glob("*.ckpt")) if other.name != file.name)
    try:
        verify(file)
        return torch.load(file, weights_only=True, **options)
    except FileNotFoundError:
        remedy = f"there are {near}" if near else "`fit` makes one and links it as best.ckpt"
        raise FileNotFoundError(f"no checkpoint at {path}: {remedy}") from None
    except PermissionError as error:
        raise OSError(f"{path} cannot be read: {error.strerror}") from error
    except Exception as error:  # zipfile and torch raise many kinds, one for each kind of damage
        if isinstance(error, pickle.UnpicklingError) and (code := _code_in(file)):
            raise ValueError(
                f"{path} was not opened: it asks to call {code}, but only tensors and plain data are loaded. "
                "No code in it was run"
            ) from error
        reason = str(error).partition("\n")[0] or type(error).__name__
        remedy = (
            f"There are {near}: `fit --resume` picks an intact one by itself"
            if near
            else "No other checkpoint lies beside it"
        )
        raise ValueError(f"{path} is not an intact checkpoint: {reason}. {remedy}") from error


def verify(file: Path) -> None:
    """Compares each record with the CRC-32 that torch writes for it. Raises an exception of any kind if one differs."""
    if file.exists() and not file.is_file():  # a FIFO or device may have no end
        raise ValueError("it is not a file")
    with file.open("rb") as stream:
        if not zipfile.is_zipfile(stream):
            raise ValueError("it is empty, cut short, or no file of torch.save")
        archive = zipfile.ZipFile(stream)
        for record in archive.infolist():
            if record.compress_type != zipfile.ZIP_STORED:  # never by torch; unpacked, it could have any size
                raise ValueError(f"its record {record.filename} is compressed")
            if record.external_attr & 0x10:  # one flipped bit makes it a directory, and torch returns random memory
                raise ValueError(f"its record {record.filename} is damaged")
        if damaged := archive.testzip():
            raise ValueError(f"its record {damaged} is damaged")


def _code_in(file: Path) -> str:
    with suppress(Exception):
        return ", ".join(sorted(torch.serialization.get_unsafe_globals_in_checkpoint(file))[:5])
    return ""
