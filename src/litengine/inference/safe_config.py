"""What the config inside a checkpoint may name: public classes of known packages, each only where its kind belongs.

A config is a program: a class path imports a module and calls something. One that came with a file from elsewhere is
checked here, before anything that it names is imported. docs/security.md states the rules.
"""

import importlib
import inspect
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import set_parsing_settings
from torch import nn

from litengine import project
from litengine.network import (
    BY_NAME,
    LOADS_WEIGHTS,
    MODELS,
    SPEC,
    Leaf,
    argument_types,
    definition,
    is_spec,
    leaves,
    registered_model,
)
from litengine.terminal import print_line
from litengine.training import checkpoint_files

# Only public classes that are defined here; the rest of these packages reads files, downloads and compiles.
PARTS = (
    "torch.nn",
    "torch.optim",
    "torch.utils.data.dataset",
    "torchmetrics.classification",
    "torchvision.datasets",
    "torchvision.models",
    "torchvision.ops",
    "torchvision.transforms",
    "timm.layers",
    "timm.loss",
    "timm.models",
    "timm.optim",
    "lightning.pytorch.cli.ReduceLROnPlateau",
    "litengine.data",
    "litengine.optim",
)
EXCEPT = (
    "torchvision.datasets.lsun",  # unpickles a file of its folder
    "torchvision.datasets.imagenet",  # unpack archives in their folder
    "torchvision.datasets.cityscapes",
    "torchvision.models.feature_extraction",  # make Python code of a network, and run it
    "timm.models._features_fx",
)
PACKAGES = tuple(dict.fromkeys(part.partition(".")[0] for part in PARTS))
# What timm's description of a set of weights may say, since the shape of the network follows it
OF_TIMM = ("pretrained_cfg", "pretrained_cfg_overlay")
SHAPES = ("input_size", "fixed_input_size", "num_classes", "pool_size", "first_conv", "classifier")
REMOTE = ("url", "download")  # arguments of a source or dataset
MACHINE = ("num_workers",)  # of the machine that wrote the checkpoint
UNKNOWN = Leaf(inspect.Parameter.empty)  # the type of an argument without a hint
MOST_VALUES, DEEPEST = 100_000, 50  # of a config; those of fits have a few hundred values
WORD = re.compile(r"[a-z0-9_-]*")  # neither an import path, the name of a class, nor YAML


def read_config(path: str | os.PathLike[str], trusted: Sequence[str] = ()) -> dict[str, Any]:
    """The config of a checkpoint, once all that it names is known to be harmless.

    Prints what of it is not used: addresses and downloads.

    Raises:
        FileNotFoundError, OSError: if the file cannot be read.
        ValueError: if it is damaged, or names what it may not.
    """
    config, ignored = check_config(_read(path, trusted)["config"], trusted)
    for key in ignored:
        print_line(f"{key} of the checkpoint is not used: a checkpoint may not choose where data comes from or goes to")
    # a second wall: jsonargparse now enforces its own list of what no config may name
    set_parsing_settings(import_path_denylist=["torch.hub", "torch.package", "torch.utils.cpp_extension"])
    set_parsing_settings(import_path_allowlist=[name for name in trusted if name != "jsonargparse"])
    return config


def read_for_prediction(path: str | os.PathLike[str], trusted: Sequence[str] = ()) -> dict[str, Any]:
    """The content of a checkpoint with a checked spec under `network`. The rest of its config is not used.

    Raises:
        FileNotFoundError, OSError: if the file cannot be read.
        ValueError: if it is damaged, or its network names what it may not.
    """
    content = _read(path, trusted)
    model = content["config"].get("model")
    if not isinstance(model, Mapping) or "network" not in model:
        raise ValueError(f"{path} holds no model.network")
    content["network"] = _Checker(trusted).value("model.network", model["network"], nn.Module)
    if not is_spec(content["network"]):
        raise ValueError(f"model.network in the checkpoint is {model['network']!r}: settings are needed")
    return content


def check_config(config: Any, trusted: Sequence[str] = ()) -> tuple[dict[str, Any], list[str]]:
    """Checks what the config of a checkpoint sets, and every import path in it before its first import.

    Args:
        config: as `checkpoint_files.read(path)["config"]` has it.
        trusted: packages, modules, classes or functions that may stand anywhere; importing them runs their code.

    Returns:
        The config without arguments that load other weights, download, or name an address or a folder to write to;
        and the keys of the latter.

    Raises:
        ValueError: naming the key, what stands there, and how to allow it.
    """
    if not isinstance(config, Mapping):
        raise ValueError("the config in the checkpoint holds no settings")
    check_size(config)
    checker = _Checker(trusted)
    owners: dict[str, Any] = {"model": project.model_class, "data": project.data_class}
    checked: dict[str, Any] = {}
    for key, value in config.items():
        if key in owners:
            checked[key] = checker.arguments(key, argument_types(owners[key]()), value)
        elif key not in ("name", "seed_everything"):  # above all not trainer, callbacks, config
            raise ValueError(f"the checkpoint sets {key}: it may set name, seed_everything, model and data")
        elif isinstance(value, str) and not re.fullmatch(r"(?!\.)[^/\\\0]*", value):  # it becomes a folder
            raise ValueError(f"{key} in the checkpoint is {value!r}: a plain name is needed")
        elif not isinstance(value, str | int | None):
            raise ValueError(f"{key} in the checkpoint is {value!r}: a name or a number is needed")
        else:
            checked[key] = value
    return checked, checker.ignored


def check_can_be_read(config: Mapping[str, Any]) -> None:
    """Raises ValueError if no checkpoint with this config could be opened, whatever is trusted."""
    try:
        check_config(config, [project.package()])
    except ValueError as error:
        if "--trust" not in str(error):
            raise ValueError(f"a checkpoint of this fit could not be opened again: {error}") from error


def _read(path: str | os.PathLike[str], trusted: Sequence[str]) -> dict[str, Any]:
    content = checkpoint_files.read(os.fspath(path))
    if "hyper_parameters" in content:  # Lightning would import what they name, unchecked
        raise ValueError(f"{path} carries hyper_parameters: it is not a checkpoint of this project")
    check_size([content["config"], content["data"]])
    if not isinstance(content["config"], Mapping):
        raise ValueError("the config in the checkpoint holds no settings")
    content["config"] = project.renamed(content["config"], trusted)
    return content


def check_size(config: Any) -> None:
    """Raises ValueError if a list stands in itself, or many times in another: a walk through it would not end."""
    values, left = [(config, 0)], MOST_VALUES
    while values:
        value, depth = values.pop()
        inner = [*value, *value.values()] if isinstance(value, Mapping) else value
        if not isinstance(value, Mapping | list | tuple | set | frozenset):
            continue
        left -= len(inner)
        if left < 0 or depth > DEEPEST:
            raise ValueError(f"the config in the checkpoint has over {MOST_VALUES:,} values, or {DEEPEST} levels")
        values += [(item, depth + 1) for item in inner]


class _Checker:
    """Walks through a config and returns it without what is dropped; `ignored` are the keys the user should know."""

    def __init__(self, trusted: Sequence[str]) -> None:
        self.trusted = tuple(trusted)
        self.ignored: list[str] = []

    def arguments(self, key: str, hints: Mapping[str, Any], given: Any) -> dict[str, Any]:
        if not isinstance(given, Mapping):  # a string would be read as the path of another config
            raise ValueError(f"{key} in the checkpoint is {given!r}: settings are needed")
        kept = {}
        for name, value in given.items():
            place = f"{key}.{name}"
            if not str(name).isidentifier():  # `network.class_path`, `augment+` mean more than they say
                raise ValueError(f"{place} in the checkpoint is no name of a setting")
            if key.startswith("data.") and _leads_elsewhere(name, value, downloads="url" in hints):
                self.ignored.append(place)
            elif not key.startswith("data.") or name not in MACHINE:
                kept[name] = self.value(place, value, hints.get(name, inspect.Parameter.empty))
        return kept

    def value(self, key: str, value: Any, hint: Any) -> Any:
        """A value, checked against the type hint of its place, `empty` if it has none."""
        found = {UNKNOWN} if hint is inspect.Parameter.empty else set(leaves(hint))
        if isinstance(value, Mapping):
            if SPEC & set(value):
                return self._spec(key, value, found)
            if not all(isinstance(name, str | int) for name in value):
                raise ValueError(f"{key} in the checkpoint has keys that are no names: {list(value)}")
            return {name: self.value(f"{key}.{name}", item, hint) for name, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.value(f"{key}.{index}", item, hint) for index, item in enumerate(value)]
        if isinstance(value, str) and not all(leaf.is_plain for leaf in found):
            self._check_text(key, value, found)
        elif not isinstance(value, str | int | float | None):
            raise ValueError(f"{key} in the checkpoint is a {type(value).__name__}: plain settings are needed")
        return value

    def _check_text(self, key: str, text: str, found: set[Leaf]) -> None:
        """A string where jsonargparse may take it for an import path, a class's name, YAML, or a file with them."""
        if all(leaf.is_plain or leaf == Leaf(object) for leaf in found):  # Any: only YAML is read from it
            if isinstance(_from_yaml(text), dict | list):
                raise ValueError(f"{key} in the checkpoint is {text!r}: settings inside a string are not read")
        elif "." in text and all(part.isidentifier() for part in text.split(".")):
            self._check_target(key, text, found)
        elif not {Leaf(str), Leaf(object), UNKNOWN} & found or not WORD.fullmatch(text) or os.path.isfile(text):
            raise ValueError(f"{key} in the checkpoint is {text!r}: a full import path is needed, or a plain word")

    def _spec(self, key: str, spec: Mapping[str, Any], found: set[Leaf]) -> dict[str, Any]:
        if not is_spec(spec) or not set(spec) <= SPEC:
            raise ValueError(f"{key} in the checkpoint has the keys {', '.join(map(str, spec))}: class_path is needed")
        target = self._check_target(f"{key}.class_path", spec["class_path"], found)
        place, hints, checked = definition(target), argument_types(target), dict(spec)
        if place in BY_NAME:
            name = {**(spec.get("dict_kwargs") or {}), **(spec.get("init_args") or {})}.get(BY_NAME[place])
            hints = {**argument_types(_registered(key, place, name)), **hints}
        for part in SPEC & set(spec) - {"class_path"}:
            arguments = self.arguments(f"{key}.{part}", hints, {} if spec[part] is None else spec[part])
            checked[part] = _without_weights(arguments) if _within(place, MODELS) else arguments
        if key.startswith("data.") and "download" in hints:  # some download by default
            checked["init_args"] = {**checked.get("init_args", {}), "download": False}
        return checked

    def _check_target(self, key: str, path: Any, found: set[Leaf]) -> Any:
        """The class or function at an import path, if it may stand where a value of the types `found` is expected."""
        target = self._resolve(key, path)
        place, kinds = definition(target), tuple(leaf.kind for leaf in found if not leaf.is_plain)
        kinds = tuple(kind for kind in kinds if kind not in (object, UNKNOWN.kind))
        if place in self.trusted:
            fits = True
        elif inspect.isclass(target):
            fits = any(_is_subclass(target, kind) for kind in kinds)
        elif _within(place, self.trusted):
            made = getattr(target, "__annotations__", {}).get("return", nn.Module)
            fits = any(_is_subclass(made, kind) for kind in kinds)
        else:
            fits = Leaf(nn.Module) in found and _is_model_builder(target)
        if fits:
            return target
        wanted = " or ".join(sorted(kind.__name__ for kind in kinds)) or "plain value, since no class is expected there"
        raise ValueError(
            f"{key} in the checkpoint is {path}, which is no {wanted}"
            + ("" if kinds else f". To allow it: --trust {place}")
        )

    def _resolve(self, key: str, path: Any) -> Any:
        """What an import path leads to, if it is a public part or trusted; no other module is imported on the way."""
        said = f"{key} in the checkpoint is {path}, which "
        parts = path.split(".") if isinstance(path, str) else []
        if len(parts) < 2 or not all(part.isidentifier() and not part.startswith("__") for part in parts):
            raise ValueError(f"{said}is no full import path such as torch.nn.ReLU")
        module, trusted = path.rpartition(".")[0], _within(path, self.trusted)
        if not trusted and parts[0] in sys.stdlib_module_names:
            raise ValueError(f"{said}belongs to Python itself: no checkpoint needs that. Nothing was run")
        if not trusted and parts[0] not in PACKAGES:
            raise ValueError(
                f"{said}is of none of the packages a checkpoint may name ({', '.join(PACKAGES)}), and was not "
                f"imported. If you know what is in it: --trust {parts[0]}"
            )
        known = _within(module, PARTS) or any(_within(part, [module]) for part in PARTS)
        if not trusted and (not known or _is_private(path)):
            raise ValueError(f"{said}is no public part of a network, its training or its data{_how_to_allow(path)}")
        try:
            target = getattr(importlib.import_module(module), parts[-1])
        except (ImportError, AttributeError) as error:
            raise ValueError(f"{said}cannot be imported: {error}") from error
        if not (inspect.isclass(target) or inspect.isfunction(target)):
            raise ValueError(f"{said}is neither a class nor a function. Nothing was run")
        place = definition(target)
        public = _within(place, PARTS) and not _within(place, EXCEPT) and _is_public(target)
        if not public and not _within(place, self.trusted):
            raise ValueError(
                f"{said}is no public part of a network, its training or its data (it is {place}){_how_to_allow(place)}"
            )
        return target


def _from_yaml(text: str) -> Any:
    with suppress(yaml.YAMLError, ValueError, RecursionError):
        return yaml.safe_load(text)
    return text


def _leads_elsewhere(name: str, value: Any, downloads: bool) -> bool:
    """Whether an argument of a source or dataset names an address, a download, or a folder outside this one to write
    to. A source that downloads may read a folder elsewhere, but not make it."""
    if name == "cache_dir" or (name == "root" and downloads):
        inside = isinstance(value, str) and not Path(value).is_absolute() and not {"..", "~"} & set(Path(value).parts)
        return not inside and (name == "cache_dir" or not isinstance(value, str) or not Path(value).is_dir())
    return (name in REMOTE and bool(value)) or (isinstance(value, str) and "://" in value)


def _registered(key: str, function: str, name: Any) -> Any:
    """The builder of a model that a function makes by name."""
    if (builder := registered_model(function, name)) is not None:
        return builder
    raise ValueError(
        f"{key} in the checkpoint names the model {name!r}, which {function.partition('.')[0]} does not have"
    )


def _is_model_builder(target: Any) -> bool:
    """Whether a function is one of torchvision's or timm's models for classification, or makes them by name."""
    place = definition(target)
    return place in BY_NAME or (_within(place, MODELS) and registered_model(place, target.__name__) is target)


def _without_weights(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a model without those that load weights: those of the checkpoint replace them."""
    kept = {name: value for name, value in arguments.items() if name not in LOADS_WEIGHTS}
    for name in OF_TIMM:
        if isinstance(kept.get(name), Mapping):
            kept[name] = {shape: value for shape, value in kept[name].items() if shape in SHAPES}
    return kept


def _how_to_allow(place: str) -> str:
    return f". If you want it run: --trust {place}" if _within(place, PACKAGES) else ". Nothing was run"


def _within(path: str, places: Iterable[str]) -> bool:
    return any(f"{path}.".startswith(f"{place}.") for place in places)


def _is_subclass(found: Any, kind: type) -> bool:
    try:
        return inspect.isclass(found) and issubclass(found, kind)
    except TypeError:  # a protocol
        return False


def _is_private(path: str) -> bool:
    return any(part.startswith("_") for part in path.split("."))


def _is_public(target: Any) -> bool:
    """Defined in a module without a leading underscore, or offered by the public package around it."""
    place = definition(target)
    module, _, name = place.rpartition(".")
    while _is_private(module):
        module = module.rpartition(".")[0]
    return not _is_private(name) and (not _is_private(place) or getattr(sys.modules[module], name, None) is target)
