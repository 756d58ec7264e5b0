"""The run directory: everything one run writes lies under `runs/<name>/<time>/`, and one process at a time owns it."""

import errno
import json
import os
import sys
import time
import uuid
from contextlib import suppress
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import IO, Any, Literal, get_args

import yaml

from litengine.files import link, relative, write_whole

if sys.platform != "win32":
    import fcntl

State = Literal["starting", "running", "stopped", "failed", "finished"]
CONFIG, STATE, LOCK = "config.yaml", "state.json", ".lock"
VALIDATION = "validation.csv"  # the predictions of the validation images
MOMENT = "%Y-%m-%d_%H-%M-%S"  # of the start, in the name of a run directory
CHECKSUM = "sha256 of all above: "
LONGEST_NAME = 200  # bytes
LARGEST_FILE = 2**28  # bytes, of a run that is not ours
_owned: dict[Path, IO[str]] = {}
_made: set[Path] = set()


def new_run_dir(
    root: str | Path, name: str, settings: dict[str, Any] | None = None, given: str | Path | None = None
) -> Path:
    """Makes `root/name/<time>/`, absolute; a second run of the same second gets a `-1`. With several processes, the
    first one makes it for all.

    Args:
        settings: the config of a fit. It is written at once, so that a fit that is killed at any time can be resumed.
        given: the directory to use instead.

    Raises:
        ValueError: for a name that cannot be the name of one folder, or if `given` holds a run.
    """
    from litengine.training.launch import agree  # imports torch

    return Path(agree("run directory", lambda: str(_make_run_dir(root, name, settings, given))))


def _make_run_dir(root: str | Path, name: str, settings: dict[str, Any] | None, given: str | Path | None) -> Path:
    if given is None:
        directory = _new_folder(Path(root).absolute() / checked_name(name))
    else:
        directory = Path(given).absolute()
        if read_state(directory) is not None:
            raise ValueError(
                f"trainer.default_root_dir {given} holds a run: omit it to get a new directory, or resume the run with "
                f"--resume {given}"
            )
        directory.mkdir(parents=True, exist_ok=True)
    if settings is not None:
        own(directory)
        _made.add(directory)
        newest = max(map(_started, runs_in(root)), default=0.0)
        write_config(directory, settings)
        write_state(directory, "starting", started=max(time.time(), newest + 0.001))  # the clock may be set back
    return directory


def write_config(directory: Path, settings: dict[str, Any]) -> None:
    """Writes `config.yaml`, with a checksum as its last line: a damaged setting can still be a valid one."""
    text = yaml.safe_dump(settings, sort_keys=False) + "# "
    write_whole(directory / CONFIG, f"{text}{CHECKSUM}{sha256(text.encode()).hexdigest()}\n")


def read_config(directory: Path) -> Any:
    """The content of `config.yaml`.

    Raises:
        OSError, ValueError, yaml.YAMLError: if it cannot be read, or its checksum is that of other lines.
    """
    text, _, checksum = (directory / CONFIG).read_text("utf-8").partition(CHECKSUM)
    if checksum and checksum.strip() != sha256(text.encode()).hexdigest():
        raise ValueError(f"the checksum of {CONFIG} differs; if you edited it, delete its last line")
    return yaml.safe_load(text)


def _new_folder(parent: Path) -> Path:
    moment, attempt = f"{datetime.now():{MOMENT}}", 0
    while True:
        directory = parent / (f"{moment}-{attempt}" if attempt else moment)
        with suppress(FileExistsError):
            directory.mkdir(parents=True)
            return directory
        attempt += 1


def checked_name(name: str) -> str:
    """Raises ValueError for a name that cannot be the name of one folder."""
    fits = name not in ("", ".", "..") and len(os.fsencode(name)) <= LONGEST_NAME
    if not fits or not name.isprintable() or set(name) & {*"/\\"}:
        raise ValueError(
            f"--name is {name!r}: choose a name of 1 to {LONGEST_NAME} printable characters, without / and \\"
        )
    return name


def discard(directory: Path) -> None:
    """Removes the run directory of a fit that this process began and that never trained, with the folders above that
    are empty then. Files other than its config and state stay."""
    if directory in _made and read_state(directory) == "starting":
        for name in (CONFIG, STATE, LOCK):
            (directory / name).unlink(missing_ok=True)
        disown(directory)
    with suppress(OSError):
        for folder in (directory, directory.parent, directory.parent.parent):
            folder.rmdir()


def own(directory: Path) -> bool:
    """Makes this process the owner of a run directory until `disown` or its end. Returns False if another process owns
    it, or it is read-only."""
    if directory in _owned or sys.platform == "win32":
        return True
    try:
        file = (directory / LOCK).open("a+")
    except OSError:
        return False
    try:
        # Not flock: workers that outlive a killed process would hold it.
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            file.close()
            return False  # any other: a file system without locks
    file.truncate(0)
    file.write(f"{os.getpid()} on {os.uname().nodename}")
    file.flush()
    _owned[directory] = file
    return True


def disown(directory: Path) -> None:
    if file := _owned.pop(directory, None):
        file.close()


def write_state(directory: Path, state: State, **facts: str | float | None) -> None:
    """Notes how far the run is, and other facts. A run that was killed stays `starting` or `running`."""
    content = _content(directory) | facts | {"state": state, "at": f"{datetime.now():%Y-%m-%d %H:%M:%S}"}
    content.setdefault("id", os.environ.get("WANDB_RUN_ID") or uuid.uuid4().hex[:8])  # the variable is set by a sweep
    write_whole(directory / STATE, json.dumps(content))


def read_state(directory: Path) -> State | None:
    """How far a run is; None if the directory is not a run's. A run whose state cannot be read counts as `running`."""
    if not (directory / CONFIG).is_file():
        return None
    state = _content(directory).get("state")
    return state if state in get_args(State) else "running"


def run_id(directory: Path) -> str:
    """The id of the run at its tracker."""
    return str(_content(directory).get("id") or uuid.uuid4().hex[:8])


def _content(directory: Path) -> dict[str, Any]:
    file = directory / STATE
    try:
        content = json.loads(file.read_bytes()) if _is_ordinary(file) else {}
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def runs_in(root: str | Path, name: str | None = None) -> list[Path]:
    """The run directories under `root`, oldest first, all or those of one name."""
    found = [config.parent for config in Path(root).absolute().glob(f"*/*/{CONFIG}")]
    chosen = [run for run in found if name is None or run.parent.name == name]
    return sorted(chosen, key=lambda run: (_started(run), run.name[:19], len(run.name), run.name))


def _started(run: Path) -> float:
    """When it was started, in seconds since 1970; without an intact state file, by its name, which is local time."""
    if isinstance(started := _content(run).get("started"), float):
        return started
    with suppress(ValueError):
        return datetime.strptime(run.name[:19], MOMENT).timestamp()
    return 0.0


def find(wanted: str, root: str | Path, name: str | None = None) -> Path | None:
    """The run directory to resume, which this process owns from now on.

    Args:
        wanted: `last`: the newest unfinished run under `root`, or if all are finished the newest; `auto`: the newest
            unfinished one called `name` that no process owns, None if there is none; else the run directory itself.

    Raises:
        ValueError: if there is no such run, or another process owns it.
    """
    if wanted == "auto":
        if name is None:
            raise ValueError("--resume auto needs to know which run: give it with --config or --name")
        unfinished = [run for run in runs_in(root, name) if read_state(run) != "finished"]
        return next((run for run in reversed(unfinished) if own(run)), None)
    if wanted == "last":
        runs = runs_in(root)
        if not runs:
            raise ValueError(f"there is no run to resume under {root} yet")
        directory = ([run for run in runs if read_state(run) != "finished"] or runs)[-1]
    else:
        directory = Path(wanted).absolute()
        if read_state(directory) is None:
            there = [f"{relative(run)} ({read_state(run)})" for run in runs_in(root)[-5:]]
            raise ValueError(f"{wanted} is not a run directory: there are {', '.join(there) or 'none yet'}")
    if not own(directory):
        if not os.access(directory / LOCK, os.W_OK):
            raise ValueError(
                f"{relative(directory)} cannot be written by this user: make it writable, or begin a new run with "
                f"--ckpt_path {relative(directory)}/checkpoints/last.ckpt"
            )
        owner = (directory / LOCK).read_text() or "another one"
        raise ValueError(f"{relative(directory)} is in use by process {owner}: wait for its end, or resume another run")
    return directory


def run_dir_of(checkpoint: str | Path) -> Path | None:
    """The run directory that a checkpoint lies in, through links, to be read and written; None if it lies in none, or
    in one with links, FIFOs or files of any size, which may be a stranger's."""
    directory = _place_of(checkpoint)
    return directory if (directory / CONFIG).is_file() and all(map(_is_ordinary, directory.iterdir())) else None


def _place_of(checkpoint: str | Path) -> Path:
    return Path(checkpoint).resolve().parent.parent


def _is_ordinary(path: Path) -> bool:
    return not path.is_symlink() and (path.is_dir() or (path.is_file() and path.stat().st_size <= LARGEST_FILE))


def link_best(checkpoint: Path) -> bool:
    """Makes `best.ckpt` in the working directory a link to a checkpoint, unless it links to one of a run that was
    started later. Returns whether it did."""
    theirs = Path("best.ckpt").is_symlink() and _started(_place_of("best.ckpt"))
    return theirs <= _started(_place_of(checkpoint)) and link(checkpoint, "best.ckpt")
