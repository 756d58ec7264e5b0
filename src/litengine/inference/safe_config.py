"""What the config inside a checkpoint may name: public classes of known packages, each only where its kind belongs.

A config is a program: a class path imports a module and calls something. One that came with a file from elsewhere is
checked here, before anything that it names is imported. docs/security.md states the rules.
"""

import importlib
import inspect
import os
import re
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, get_args

import yaml
from jsonargparse import set_parsing_settings
from torch import nn

from litengine import project
from litengine.data.sources.pixels import Reading
from litengine.data.sources.tree import is_endless
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
from litengine.normalize import LARGEST
from litengine.terminal import print_line
from litengine.training import checkpoint_files
from litengine.views import TTA

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
UNKNOWN = Leaf(inspect.Parameter.empty)  # the type of an argument without a hint
MOST_VALUES, DEEPEST = 100_000, 50  # of a config; those of fits have a few hundred values
WORD = re.compile(r"[a-z0-9_-]*")  # neither an import path, the name of a class, nor YAML


def read_config(path: str | os.PathLike[str], trusted: Sequence[str] = ()) -> dict[str, Any]:
    """The checked config of a checkpoint. Prints the keys that are not used.

    Raises:
        FileNotFoundError, OSError: if the file cannot be read.
        ValueError: if it is damaged, or names what it may not.
    """
    content = _read(path, trusted)
    try:
        check_facts(content["data"])
        _check_counters(content.get("loops"))
    except ValueError as error:
        raise ValueError(f"{path} is not an intact checkpoint: {error}") from error
    config, ignored = check_config(content["config"], trusted)
    for key in ignored:
        print_line(f"{key} of the checkpoint is not used (docs/security.md): give it by a flag if you want it")
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
    network = model.get("network") if isinstance(model, Mapping) else None
    if not is_spec(network):
        shown = textwrap.shorten(repr(network), 80)
        raise ValueError(f"model.network in the checkpoint is {shown}: settings are needed")
    content["network"] = _Checker(trusted).value("model.network", network, nn.Module)
    return content


def check_config(config: Any, trusted: Sequence[str] = ()) -> tuple[dict[str, Any], list[str]]:
    """Checks what the config of a checkpoint sets, and every import path in it before its first import.

    Args:
        config: `config` of a checkpoint.
        trusted: packages, modules, classes or functions that may stand anywhere; importing them runs their code.

    Returns:
        The config without arguments that load other weights, download, name an address or a folder to write to, or are
        of the machine; and the keys of those that the user should know.

    Raises:
        ValueError: naming the key, what stands there, and how to allow it.
    """
    check_size(config)
    checker = _Checker(trusted)
    checked: dict[str, Any] = {}
    for key, value in config.items():
        if key in ("model", "data"):
            owner: Any = project.model_class() if key == "model" else project.data_class()
            checked[key] = checker.arguments(key, argument_types(owner), value)
        elif key not in ("name", "seed_everything"):  # above all not trainer, callbacks, config
            raise ValueError(f"the checkpoint sets {key}: it may set name, seed_everything, model and data")
        # the name becomes a folder
        elif not isinstance(value, str | int | None) or not re.fullmatch(r"(?!\.)[^/\\\0]*", str(value)):
            raise ValueError(f"{key} in the checkpoint is {value!r}: a plain name or a number is needed")
        else:
            checked[key] = value
    return checked, checker.ignored


def check_facts(facts: Mapping[str, Any]) -> None:
    """Raises ValueError if facts of the data, as a checkpoint has them under `data`, are missing or of a wrong type."""
    kinds: dict[str, Any] = {"class_names": str, "image_shape": int, "mean": float | int, "std": float | int}
    for name, kind in kinds.items():
        values = facts.get(name)
        if not isinstance(values, list | tuple) or not all(isinstance(value, kind) for value in values):
            raise ValueError(f"its {name} is {textwrap.shorten(repr(values), 80)}")
    temperature, tta, channels = facts.get("temperature", 1.0), facts.get("tta", "none"), len(facts["mean"])
    if not isinstance(temperature, float | int) or not 1 / LARGEST < temperature < LARGEST:
        raise ValueError(f"its temperature is {temperature!r}: a positive number is needed")
    if tta not in get_args(TTA):
        raise ValueError(f"its tta is {tta!r}: {', '.join(get_args(TTA))} are known")
    if channels != len(facts["std"]) or channels not in (1, *facts["image_shape"][:1]):
        deviations, shape = len(facts["std"]), list(facts["image_shape"])
        raise ValueError(f"it has {channels} means and {deviations} deviations for images {shape}")
    try:
        Reading(**facts.get("reading", {}))
    except TypeError as error:
        raise ValueError(f"its reading is {textwrap.shorten(repr(facts['reading']), 80)}") from error


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
    check_size(content["config"])
    check_size(content["data"])
    content["config"] = project.renamed(content["config"], trusted)
    return content


def _check_counters(loops: Any) -> None:
    """Raises ValueError if a counter in the state of the Trainer's loops is not a number."""
    values: list[Any] = [loops]
    while values:
        value = values.pop()
        if isinstance(value, Mapping):
            values += [inner for name, inner in value.items() if not str(name).endswith("state_dict")]
        elif not isinstance(value, int | None):
            raise ValueError(f"a counter in its loops is {textwrap.shorten(repr(value), 80)}")


def check_size(config: Any) -> None:
    """Raises ValueError if a list stands in itself, or many times in another: a walk through it would not end."""
    if not isinstance(config, Mapping):
        raise ValueError("the config in the checkpoint holds no settings")
    values: list[tuple[Any, int]] = [(config, 0)]
    left = MOST_VALUES
    while values:
        value, depth = values.pop()
        if not isinstance(value, Mapping | list | tuple | set | frozenset):
            continue
        inner = [*value, *value.values()] if isinstance(value, Mapping) else value
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
            of_data = place.startswith("data.")
            if not str(name).isidentifier():  # `network.class_path`, `augment+` mean more than they say
                raise ValueError(f"{place} in the checkpoint is not a name of a setting")
            if of_data and name == "num_workers":  # of the machine that wrote the checkpoint
                continue
            if (of_data and _leads_elsewhere(name, value, "url" in hints)) or (place == "model.compile" and value):
                self.ignored.append(place)
            else:
                kept[name] = self.value(place, value, hints.get(name, inspect.Parameter.empty))
        return kept

    def value(self, key: str, value: Any, hint: Any) -> Any:
        """A value, checked against the type hint of its place, `empty` if it has none."""
        found = {UNKNOWN} if hint is inspect.Parameter.empty else set(leaves(hint))
        if isinstance(value, Mapping):
            if SPEC & set(value):
                return self._spec(key, value, found)
            if not all(isinstance(name, str | int) for name in value):
                raise ValueError(f"{key} in the checkpoint has keys that are not names: {list(value)}")
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
            settings = None
            with suppress(yaml.YAMLError, ValueError, RecursionError):
                settings = yaml.safe_load(text)
            if isinstance(settings, dict | list):
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
            builder = registered_model(place, name)
            if builder is None:
                package = place.partition(".")[0]
                raise ValueError(f"{key} in the checkpoint names the model {name!r}, which {package} does not have")
            hints = {**argument_types(builder), **hints}
        for part in SPEC & set(spec) - {"class_path"}:
            arguments = self.arguments(f"{key}.{part}", hints, {} if spec[part] is None else spec[part])
            checked[part] = _without_weights(arguments) if _within(place, MODELS) else arguments
        if key.startswith("data.") and "download" in hints:  # some download by default
            checked["init_args"] = {**checked.get("init_args", {}), "download": False}
        return checked

    def _check_target(self, key: str, path: Any, found: set[Leaf]) -> Any:
        """The class or function at an import path, if it may stand where a value of the types `found` is expected."""
        target = self._resolve(key, path)
        place = definition(target)
        kinds = [leaf.kind for leaf in found if not leaf.is_plain and leaf.kind not in (object, UNKNOWN.kind)]
        if place in self.trusted:
            return target
        made: Any = None
        if inspect.isclass(target):
            made = target
        elif _within(place, self.trusted):
            made = getattr(target, "__annotations__", {}).get("return", nn.Module)
        elif Leaf(nn.Module) in found and _is_model_builder(target):
            made = nn.Module
        if inspect.isclass(made) and {*kinds} & {*inspect.getmro(made)}:
            return target
        types = " or ".join(sorted(kind.__name__ for kind in kinds))
        wanted = f"of type {types}" if types else "a plain value, since no class is expected there"
        raise ValueError(
            f"{key} in the checkpoint is {path}, which is not {wanted}"
            + ("" if kinds else f". To allow it: --trust {place}")
        )

    def _resolve(self, key: str, path: Any) -> Any:
        """What an import path leads to, if it is a public part or trusted; no other module is imported on the way."""
        said = f"{key} in the checkpoint is {path}, which "
        parts = path.split(".") if isinstance(path, str) else []
        if len(parts) < 2 or not all(part.isidentifier() and not part.startswith("__") for part in parts):
            raise ValueError(f"{said}is not a full import path such as torch.nn.ReLU")
        module = path.rpartition(".")[0]
        if not _within(path, self.trusted):
            if parts[0] in sys.stdlib_module_names:
                raise ValueError(f"{said}belongs to Python itself: no checkpoint needs that. Nothing was run")
            if parts[0] not in PACKAGES:
                raise ValueError(
                    f"{said}is of none of the packages a checkpoint may name ({', '.join(PACKAGES)}), and was not "
                    f"imported. If you know what is in it: --trust {parts[0]}"
                )
            known = _within(module, PARTS) or any(_within(part, [module]) for part in PARTS)
            if not known or _is_private(path):
                raise ValueError(said + _not_public(path))
        try:
            target = getattr(importlib.import_module(module), parts[-1])
        except (ImportError, AttributeError) as error:
            raise ValueError(f"{said}cannot be imported: {error}") from error
        if not (inspect.isclass(target) or inspect.isfunction(target)):
            raise ValueError(f"{said}is neither a class nor a function. Nothing was run")
        place = definition(target)
        public = _within(place, PARTS) and not _within(place, EXCEPT) and _is_public(target)
        if not public and not _within(place, self.trusted):
            raise ValueError(said + _not_public(place))
        return target


def _not_public(place: str) -> str:
    how = f"If you want it run: --trust {place}" if _within(place, PACKAGES) else "Nothing was run"
    return f"is not a public part of a network, its training or its data (it is {place}). {how}"


def _leads_elsewhere(name: str, value: Any, downloads: bool) -> bool:
    """Whether an argument of a source or dataset names an address, a download, a folder outside of this one to write
    to, or a folder that takes minutes to search.

    A source that downloads may read a folder elsewhere, but not make it.
    """
    if name in ("url", "download"):
        return bool(value)
    if not isinstance(value, str):
        return name == "cache_dir"
    folder = os.path.expanduser(value)
    if "://" in value or is_endless(folder) or Path(os.path.realpath(folder)) in Path.cwd().parents:
        return True
    is_inside = not Path(value).is_absolute() and not {"..", "~"} & set(Path(value).parts)
    return not is_inside and (name == "cache_dir" or (name == "root" and downloads and not os.path.isdir(folder)))


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


def _within(path: str, places: Iterable[str]) -> bool:
    return any(f"{path}.".startswith(f"{place}.") for place in places)


def _is_private(path: str) -> bool:
    return any(part.startswith("_") for part in path.split("."))


def _is_public(target: Any) -> bool:
    """Defined in a module without a leading underscore, or offered by the public package around it."""
    place = definition(target)
    module, _, name = place.rpartition(".")
    while _is_private(module):
        module = module.rpartition(".")[0]
    return not _is_private(name) and (not _is_private(place) or getattr(sys.modules[module], name, None) is target)
