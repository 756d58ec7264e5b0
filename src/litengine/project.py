"""The project that runs in this process: the import paths of its two classes. `cli.main` sets it once."""

import re
import sys
from collections.abc import Callable, Iterable
from importlib import import_module
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from litengine.datamodule import ClassificationData
    from litengine.module import ClassifierModule

_paths = ("", "")


def use(model: str, data: str) -> None:
    """Names the project's classes, such as `my_project.model.Model`. Nothing is imported yet."""
    global _paths
    _paths = (model, data)


def package() -> str:
    """Name of the project's top-level package; empty in a process that runs no command line."""
    return _paths[0].partition(".")[0]


def version() -> str:
    """`__version__` of the project's package; empty if it has none."""
    return str(getattr(import_module(package()), "__version__", "")) if package() else ""


def model_class() -> "type[ClassifierModule]":
    found: type[ClassifierModule] = resolve_name(_paths[0])
    return found


def data_class() -> "type[ClassificationData]":
    found: type[ClassificationData] = resolve_name(_paths[1])
    return found


def command() -> list[str]:
    """The words that start this project's program in another process."""
    return [sys.executable, "-m", "litengine", *_paths]


def renamed(config: Any, packages: Iterable[str]) -> Any:
    """A config with the present names in place of those that these packages had before (`FORMER_NAMES`)."""
    present = {former: package for package in packages for former in former_names(package)}
    if not present:
        return config
    class_path = re.compile(rf"({'|'.join(map(re.escape, present))})(?=(\.[A-Za-z_]\w*)+$)")

    def changed(text: str) -> str:
        found = class_path.match(text)
        return f"{present[found[1]]}{text[found.end() :]}" if found else text

    return map_strings(config, changed)


def map_strings(value: Any, change: Callable[[str], Any]) -> Any:
    """A config with `change(text)` in place of each string. Keys stay as they are."""
    if isinstance(value, dict):
        return {key: map_strings(inner, change) for key, inner in value.items()}
    if isinstance(value, list):
        return [map_strings(inner, change) for inner in value]
    return change(value) if isinstance(value, str) else value


def former_names(package: str) -> tuple[str, ...]:
    """Names that a package had before it was renamed; checkpoints of that time use them."""
    try:
        return tuple(getattr(import_module(package), "FORMER_NAMES", ()))
    except ImportError:
        return ()
