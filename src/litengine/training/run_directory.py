"""The run directory: everything one run writes lies under `runs/<name>/<time>/`."""

import json
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Literal

from litengine.files import relative, write_whole
from litengine.training.launch import agree

State = Literal["running", "stopped", "failed", "finished"]


def new_run_dir(root: str | Path, name: str) -> Path:
    """Makes `root/name/<time>/`, absolute; of two runs that start in the same second the later gets a `-1`. Of several
    processes the first makes it, for all."""
    return Path(agree("run directory", lambda: str(_make_run_dir(root, name))))


def _make_run_dir(root: str | Path, name: str) -> Path:
    parent = Path(root).absolute() / name
    parent.mkdir(parents=True, exist_ok=True)
    time = f"{datetime.now():%Y-%m-%d_%H-%M-%S}"
    for attempt in range(1000):
        directory = parent / (f"{time}-{attempt}" if attempt else time)
        try:
            directory.mkdir()
        except FileExistsError:
            continue
        return directory
    raise OSError(f"{parent} holds a thousand runs that started at {time}: something makes runs in a loop")


def discard_empty(directory: Path) -> None:
    """Removes a run directory in which nothing stands, and the folders above that are left empty by it."""
    with suppress(OSError):
        for folder in (directory, directory.parent, directory.parent.parent):
            folder.rmdir()


def write_state(directory: Path, state: State) -> None:
    """Notes how far the run is. A run that was killed stays `running`."""
    write_whole(directory / "state.json", json.dumps({"state": state, "at": f"{datetime.now():%Y-%m-%d %H:%M:%S}"}))


def read_state(directory: Path) -> State | None:
    """How far a run is; None where the directory is no run's."""
    try:
        state: State = json.loads((directory / "state.json").read_text())["state"]
    except FileNotFoundError:
        return None
    return state


def runs_in(root: str | Path, name: str = "*") -> list[Path]:
    """The run directories under `root`, oldest first, all or those of one name."""
    found = [path.parent for path in Path(root).absolute().glob(f"{name}/*/state.json")]
    return sorted(found, key=lambda directory: directory.name)


def find(wanted: str, root: str | Path, name: str | None = None) -> Path | None:
    """The run directory to resume.

    Args:
        wanted: `last`: the newest unfinished run under `root`, or where all are finished the newest; `auto`: the newest
            unfinished one called `name`, None where there is none; else the run directory itself.

    Raises:
        ValueError: where there is no such run.
    """
    if wanted not in ("last", "auto"):
        directory = Path(wanted).absolute()
        if read_state(directory) is None:
            raise ValueError(f"{wanted} is no run directory: there are {_listing(runs_in(root)) or 'none yet'}")
        return directory
    if wanted == "auto" and name is None:
        raise ValueError("--resume auto needs to know which run: give it with --config or --name")
    found = runs_in(root, name if wanted == "auto" and name else "*")
    unfinished = [directory for directory in found if read_state(directory) != "finished"]
    if unfinished or wanted == "auto":
        return unfinished[-1] if unfinished else None
    if not found:
        raise ValueError(f"there is no run to resume under {root} yet")
    return found[-1]


def _listing(directories: list[Path]) -> str:
    return ", ".join(f"{relative(directory)} ({read_state(directory)})" for directory in directories[-5:])


def run_dir_of(checkpoint: str | Path) -> Path | None:
    """The run directory that a checkpoint lies in, through links; None where it lies in no run directory."""
    directory = Path(checkpoint).resolve().parent.parent
    return directory if (directory / "config.yaml").is_file() else None
