"""What the config inside a checkpoint may name: the parts that networks and their training are made of, nothing else.

A config is a program: a class path imports a module and calls something. One that the user wrote is his own; one that
came with a file from elsewhere is checked here before anything that it names is imported.
"""

import collections.abc
import enum
import importlib
import inspect
import os
import re
import sys
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import yaml

from litengine import project
from litengine.datamodule import ClassificationData
from litengine.module import ClassifierModule
from litengine.training import checkpoint_files

PACKAGES = ("torch", "torchvision", "lightning", "torchmetrics", "litengine", "timm")

# Of these packages, where things must be defined: the rest of them reads files, downloads and compiles.
PARTS = (
    "torch.nn",
    "torch.optim",
    "torch.utils.data.dataset",
    "torchvision.datasets",
    "torchvision.models",
    "torchvision.ops",
    "torchvision.transforms",
    "timm.layers",
    "timm.models",
    "timm.optim",
    "lightning.pytorch.cli.ReduceLROnPlateau",
    "litengine.data",
    "litengine.optim",
)
EXCEPT = (
    "torchvision.datasets.utils",  # downloads, unpacks
    "timm.models._hub",
    "timm.models._helpers",
    "litengine.data.sources.download",
    "litengine.data.sources.cache",
)
OF_TIMM = ("checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay")  # name a file or an address to load

DOTTED = re.compile(r"[^\W\d]\w*(?:\s*\.\s*[^\W\d]\w*)+")
PLAIN = (str, int, float, bool, bytes, complex, type(None), os.PathLike, enum.Enum)


def read_trusted(path: str | os.PathLike[str], trusted: Sequence[str] = ()) -> dict[str, Any]:
    """The content of a checkpoint, once it is known that its config names nothing that could harm.

    Raises:
        FileNotFoundError, OSError: where it cannot be read.
        ValueError: where it is damaged, or names what it may not.
    """
    content = checkpoint_files.read(os.fspath(path))
    if "hyper_parameters" in content:  # Lightning would import what they name, unchecked
        raise ValueError(f"{path} carries hyper_parameters: it is not a checkpoint of this project")
    content["config"] = project.renamed(content["config"], trusted)
    check_trusted(content["config"], trusted)
    return content


def check_trusted(config: dict[str, Any], trusted: Sequence[str] = ()) -> None:
    """Checks the config of a checkpoint: what it may set, and every import path in it, before the first import.

    Args:
        config: as `checkpoint_files.read(path)["config"]` has it.
        trusted: packages, modules or classes that may be used too; importing them runs their code.

    Raises:
        ValueError: naming the key, what stands there, and how to allow it.
    """
    if not isinstance(config, Mapping):
        raise ValueError("the config in the checkpoint holds no settings")
    owners: dict[str, Any] = {"model": ClassifierModule, "data": ClassificationData}
    if project.package():
        owners = {"model": project.model_class(), "data": project.data_class()}
    for key, value in config.items():
        if key in owners:
            if not isinstance(value, Mapping):  # a string would be read as the path of another config
                raise ValueError(f"{key} in the checkpoint is {value!r}: settings are needed")
            _check_arguments(key, owners[key], value, tuple(trusted))
        elif key not in ("name", "seed_everything"):  # above all not trainer, callbacks, config
            raise ValueError(f"the checkpoint sets {key}: it may set name, seed_everything, model and data")
        elif isinstance(value, str) and not re.fullmatch(r"(?!\.)[^/\\\0]*", value):  # it becomes a folder
            raise ValueError(f"{key} in the checkpoint is {value!r}: a plain name is needed")
        elif not isinstance(value, str | int | None):
            raise ValueError(f"{key} in the checkpoint is {value!r}: a name or a number is needed")


def _check_arguments(key: str, owner: Any, arguments: Any, trusted: tuple[str, ...]) -> None:
    hints = _hints(owner)
    of_timm = str(getattr(owner, "__module__", "")).startswith("timm.")
    for name, value in arguments.items() if isinstance(arguments, Mapping) else [("", arguments)]:
        place = f"{key}.{name}".rstrip(".")
        if name and not str(name).isidentifier():  # `network.class_path`, `augment+` mean more than they say
            raise ValueError(f"{place} in the checkpoint is no name of a setting")
        if of_timm and ((name in OF_TIMM and value) or (name == "model_name" and ":" in str(value))):
            raise ValueError(f"{place} in the checkpoint is {value!r}: it may not make timm load another file")
        _check_value(place, value, hints.get(str(name), Any), trusted)


def _check_value(key: str, value: Any, hint: Any, trusted: tuple[str, ...]) -> None:
    if isinstance(value, Mapping):
        owner = None
        if "class_path" in value:
            owner = _resolve(f"{key}.class_path", value["class_path"], trusted)
            _check_kind(f"{key}.class_path", value["class_path"], owner, hint)
        for name, inner in value.items():
            if owner is not None and name in ("init_args", "dict_kwargs"):
                _check_arguments(f"{key}.{name}", owner, inner, trusted)
            elif name != "class_path":
                _check_value(f"{key}.{name}", inner, Any, trusted)
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            _check_value(f"{key}.{index}", inner, hint, trusted)
    elif isinstance(value, str) and not all(issubclass(kind, PLAIN) for kind in _leaves(hint)):
        _check_text(key, value, hint, trusted)
    elif not isinstance(value, str | int | float | None):
        raise ValueError(f"{key} in the checkpoint is a {type(value).__name__}: plain settings are needed")


def _check_text(key: str, text: str, hint: Any, trusted: tuple[str, ...]) -> None:
    """A string where jsonargparse may take it for more: an import path, a type, YAML, or a file with any of them."""
    try:
        parsed = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError):
        parsed = text
    if isinstance(parsed, dict | list):
        _check_value(key, parsed, hint, trusted)
    if "class_path" in text or os.path.isfile(text):
        raise ValueError(f"{key} in the checkpoint is {text!r}: a config inside a string is not read from there")
    for found in DOTTED.findall(text):
        path = re.sub(r"\s", "", found)
        resolved = _resolve(key, path, trusted)
        if path == text:
            _check_kind(key, path, resolved, hint)


# Import paths


def _resolve(key: str, path: Any, trusted: tuple[str, ...]) -> Any:
    """What an import path leads to, if that is a part, or trusted; no other module is imported on the way."""
    said = f"{key} in the checkpoint is {path}, which "
    parts = str(path).split(".")
    if len(parts) < 2 or not all(part.isidentifier() and not part.startswith("__") for part in parts):
        raise ValueError(f"{said}is no full import path such as torch.nn.ReLU")
    if parts[0] not in PACKAGES and not _within(path, trusted):
        if parts[0] in sys.stdlib_module_names:
            raise ValueError(f"{said}belongs to Python itself: no checkpoint needs that. Nothing was run")
        raise ValueError(
            f"{said}is of none of the packages a checkpoint may name ({', '.join(PACKAGES)}), and was not imported. "
            f"If you know what is in it: --trust {parts[0]}"
        )
    try:
        found: Any = importlib.import_module(parts[0])
        for part in parts[1:]:
            if not hasattr(found, part):
                module = f"{found.__name__}.{part}"
                if not _within(module, (*PARTS, *trusted)) and not any(
                    _within(t, [module]) for t in (*PARTS, *trusted)
                ):
                    raise ValueError(_no_part(said, path))
                importlib.import_module(module)
            found = getattr(found, part)
            # stops at the `os` of `torch.os.system`: what follows might be imported
            if inspect.ismodule(found) and not _within(found.__name__, (*PACKAGES, *trusted)):
                raise ValueError(_no_part(said, path, found.__name__))
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{said}cannot be imported: {error}") from error
    place = _definition(found)
    a_part = _within(place, PARTS) and not _within(place, EXCEPT)
    if inspect.ismodule(found) or not (a_part or _within(place, trusted)):
        raise ValueError(_no_part(said, path, place))
    return found


def _no_part(said: str, path: str, place: str = "") -> str:
    defined = f" (it is {place})" if place and place != path else ""
    if (place or path).split(".")[0] not in PACKAGES:
        return f"{said}leads out of its package{defined}. Nothing was run"
    return (
        f"{said}is no part of a network, its training or its data{defined}. If you want it run: --trust {place or path}"
    )


def _within(path: str, places: Iterable[str]) -> bool:
    return any(f"{path}.".startswith(f"{place}.") for place in places)


def _definition(found: Any) -> str:
    """Where a thing is defined, whatever it was reached by; of an instance, where its class is."""
    if inspect.ismodule(found):
        return found.__name__
    if not (inspect.isclass(found) or inspect.isroutine(found)):
        found = type(found)
    return f"{found.__module__}.{found.__qualname__}"


def _check_kind(key: str, path: str, found: Any, hint: Any) -> None:
    """Is it of the kind that its place takes: a class of it, a function that returns it, or an instance."""
    kinds = tuple(kind for kind in _leaves(hint) if not issubclass(kind, PLAIN))
    if not kinds or object in kinds:
        return
    made = found if inspect.isclass(found) else type(found)
    if inspect.isroutine(found):
        made = next((kind for kind in _leaves(_hints(found).get("return")) if kind is not object), type(None))
    if not issubclass(made, kinds):
        wanted = " or ".join(kind.__name__ for kind in kinds)
        raise ValueError(f"{key} in the checkpoint is {path}, which is no {wanted}")


# Type hints


def _hints(owner: Any) -> dict[str, Any]:
    """The types of the arguments, also of those that a class hands on to its bases; without those not understood."""
    hints: dict[str, Any] = {}
    for part in reversed(inspect.getmro(owner)) if inspect.isclass(owner) else [owner]:
        function = vars(part).get("__init__") if inspect.isclass(part) else part
        try:
            hints |= typing.get_type_hints(function) if function is not None else {}
        except Exception:  # names that only a type checker knows
            hints |= dict.fromkeys(inspect.signature(part).parameters, Any)
    return hints


def _leaves(hint: Any) -> Iterator[type]:
    """The classes that a type is made of; of a Callable those that it returns; `object` for what may be anything."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        yield str
    elif origin is collections.abc.Callable and arguments:
        yield from _leaves(arguments[-1])
    elif arguments and (
        origin in (typing.Union, types.UnionType, typing.Annotated, type)
        or getattr(origin, "__module__", "") in ("builtins", "collections.abc")
    ):
        for argument in arguments:
            yield from () if argument is Ellipsis else _leaves(argument)
    else:
        kind = type(None) if hint is None else origin or hint
        known = isinstance(kind, type) and kind is not Any and kind.__module__ not in ("collections.abc", "typing")
        yield kind if known and kind not in (type, list, dict, tuple, set) else object
