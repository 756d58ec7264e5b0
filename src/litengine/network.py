"""Networks from a config: one builder for all verbs."""

import collections.abc
import enum
import inspect
import os
import re
import types
import typing
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import lru_cache, partial
from importlib import import_module
from typing import Any, Literal

import torch
import torchvision
from jsonargparse import ArgumentError, ArgumentParser, Namespace
from torch import Tensor, nn

PLAIN = (str, int, float, bool, bytes, complex, type(None), os.PathLike, enum.Enum)
PAIRS = (tuple, list, collections.abc.Sequence)
SPEC = {"class_path", "init_args", "dict_kwargs"}
MODELS = ("torchvision.models", "timm")
# Functions that build a model by its name in their registry, and the argument with the name
BY_NAME = {"timm.models._factory.create_model": "model_name", "torchvision.models._api.get_model": "name"}
# Arguments of registered models that load weights; they change nothing else of the network
LOADS_WEIGHTS = ("weights", "weights_backbone", "pretrained", "checkpoint_path", "cache_dir")


class Leaf(typing.NamedTuple):
    """A type inside a type hint."""

    kind: type  # `object` if anything may stand there
    form: Literal["instance", "class", "factory"] = "instance"  # X, type[X], Callable[..., X]

    @property
    def is_plain(self) -> bool:
        """Whether a string, a number, or None is meant."""
        return self.form == "instance" and issubclass(self.kind, PLAIN)


def build_network(spec: Mapping[str, Any]) -> nn.Module:
    """The network that a config describes. The call gets the arguments in `spec` and no others.

    Models of torchvision and timm are built without pretrained weights: see `pretrained_weights`.

    Args:
        spec: `class_path` of a class or function; `init_args` and `dict_kwargs`: plain values, classes, or again such
            specs where the type hint of the argument names a class.

    Raises:
        ValueError: if it does not make an nn.Module, or an argument does not fit its type.
        Exception: what the class or function raises.
    """
    plain = _changed(spec, lambda _, name: name not in LOADS_WEIGHTS)
    try:
        network = _build(plain)
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:
        if not _package(spec):
            raise
        given = ", ".join(f"{name} {value}" for name, value in _arguments(plain).items())
        reason = " ".join(str(error).split())
        raise ValueError(f"{spec['class_path']} cannot be built with {given}: {reason}") from error
    if not isinstance(network, nn.Module):
        raise ValueError(
            f"{spec['class_path']} returns a {type(network).__name__}: a torch.nn.Module is needed. Name a class "
            "derived from it, or a function that returns one, as in `def make() -> nn.Module`"
        )
    return network


def pretrained_weights(spec: Mapping[str, Any]) -> dict[str, Tensor] | None:
    """The tensors of the network with the pretrained weights that its settings name; None if they name none.

    The pretrained network has its own number of classes. torchvision's also has its own image size.

    Raises:
        OSError: if the weights are not on this machine and cannot be downloaded.
    """
    if not _loads_weights(spec):
        return None

    def kept(part: Mapping[str, Any], name: str) -> bool:
        own_shape = ("num_classes",) if _package(part) == "timm" else ("num_classes", "image_size", "input_size")
        return name not in own_shape or not _loads_weights(part)

    try:
        network: nn.Module = _build(_changed(spec, kept))
    except OSError as error:  # of urllib, or of huggingface_hub
        reason = str(error).partition("\n")[0]
        raise OSError(f"the pretrained weights cannot be downloaded ({reason}): {_where_to_put(spec)}") from error
    return network.state_dict()


def facts_taken(spec: Mapping[str, Any], channels: int, height: int, width: int, classes: int) -> dict[str, Any]:
    """The facts of the data that a class or function takes, by the names of its arguments.

    Arguments that it passes on as `**kwargs` to the class that it returns are among them. Raises ValueError for oblong
    images if it takes one number for their size.
    """
    target = _builder(spec)
    facts: dict[str, Any] = {"num_classes": classes, "in_channels": channels, "image_size": height}
    size = height if height == width else [height, width]
    package, names = target.__module__.partition(".")[0], set(inspect.signature(target).parameters)
    if any(p.kind is p.VAR_KEYWORD for p in inspect.signature(target).parameters.values()):
        names.update(*(inspect.signature(function).parameters for function in _functions(target)))
    if package == "timm":
        facts = {"num_classes": classes, "in_chans": channels, "img_size": size}
        names |= {"num_classes", "in_chans"}
    elif package == "torchvision":
        facts["input_size"] = [height, width]
        if _loads_weights(spec):
            facts["transform_input"] = True  # with its weights, torchvision sets it
    for name in {"image_size", "img_size"} & {*facts}:
        hint = argument_types(target).get(name)
        pairs = [(typing.get_origin(each) or each) in PAIRS for each in (hint, *typing.get_args(hint))]
        if any(pairs):
            facts[name] = [height, width] if pairs[0] else size
    taken = {name: value for name, value in facts.items() if name in names or name in (spec.get("init_args") or {})}
    if height != width and taken.get("image_size") == height:
        raise ValueError(
            f"{spec['class_path']} takes image_size as one number, but the data has images of {height}x{width} pixels "
            "(height x width): give data.source one number, or choose a network for images of any size, or one whose "
            "__init__ has `image_size: int | tuple[int, int]`"
        )
    return taken


def accept_function(path: str) -> dict[str, Any]:
    """Lets jsonargparse accept networks whose annotations it cannot use.

    These are functions without a return annotation, and arguments of the type `Callable[..., X]` whose default is a
    class that needs more than one argument, as in torchvision's ShuffleNetV2: they become `type[X]`.

    Returns:
        A placeholder for each required argument that `facts_taken` fills in once the data is known.
    """
    try:
        target = import_object(path)
    except (ImportError, AttributeError, ValueError):  # the parser says what is wrong
        return {}
    if inspect.isfunction(target):
        target.__annotations__.setdefault("return", nn.Module)
    for function in _functions(target):
        for name, parameter in inspect.signature(function).parameters.items():
            leaf, default = next(leaves(_hints_of(function).get(name))), parameter.default
            if leaf.form == "factory" and inspect.isclass(default) and len(_required(default)) > 1:
                function.__annotations__[name] = type[leaf.kind]
    required = _required(target)
    facts = facts_taken({"class_path": path}, 1, 1, 1, 1)
    return {name: value for name, value in facts.items() if name in required}


def registered_model(function: str, name: Any) -> Any:
    """The builder of a model in the registry of the package of `function`; None if there is no such model."""
    if isinstance(name, str) and re.fullmatch(r"[\w.-]+", name):
        if function.startswith("timm."):
            import timm  # not everybody has it

            return timm.model_entrypoint(name.partition(".")[0]) if timm.is_model(name) else None
        if name in torchvision.models.list_models(module=torchvision.models):
            return torchvision.models.get_model_builder(name)
    return None


def definition(target: Any) -> str:
    """Where a class or function is defined, whatever it was reached by."""
    return f"{getattr(target, '__module__', '')}.{getattr(target, '__qualname__', '')}"


def import_object(path: str) -> Any:
    """The class or function at an import path such as torch.nn.ReLU."""
    module, _, name = path.rpartition(".")
    return getattr(import_module(module), name)


@lru_cache(maxsize=64)
def argument_types(target: Any) -> Mapping[str, Any]:
    """The type hints of a class's or function's arguments.

    Those of the base classes are among them, and for a function those of the class that it returns, since `**kwargs`
    are often handed on to it. Arguments without a hint, or with one that cannot be resolved, are omitted.
    """
    hints: dict[str, Any] = {}
    for function in _functions(target):
        hints |= _hints_of(function)
    hints.pop("return", None)
    return hints


def leaves(hint: Any) -> Iterator[Leaf]:
    """The types that a hint is made of, also inside of unions and containers."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        yield from {Leaf(type(value)) for value in arguments}
    elif origin in (type, collections.abc.Callable) and arguments:
        form: Literal["class", "factory"] = "class" if origin is type else "factory"
        yield from (Leaf(leaf.kind, form) for leaf in leaves(arguments[-1]))
    elif arguments and (
        origin in (typing.Union, types.UnionType, typing.Annotated)
        or getattr(origin, "__module__", "") in ("builtins", "collections", "collections.abc")
    ):
        for argument in arguments[:1] if origin is typing.Annotated else arguments:
            yield from () if argument is Ellipsis else leaves(argument)
    elif hint in (type, typing.Callable, collections.abc.Callable, types.FunctionType):
        yield Leaf(object, "factory")
    else:
        kind = type(None) if hint is None else origin or hint
        known = isinstance(kind, type) and kind is not Any and kind.__module__ not in ("collections.abc", "typing")
        yield Leaf(kind if known and kind not in (list, dict, tuple, set, frozenset) else object)


def worth_recording(spec: Mapping[str, Any]) -> dict[str, Any]:
    """A parsed spec with the arguments that a checkpoint records: what was given, and plain defaults.

    Defaults that jsonargparse found behind `**kwargs` are omitted, since the function may not take them, and so are
    functions and other objects, which a config cannot hold.
    """
    target = import_object(spec["class_path"])
    own, given = inspect.signature(target).parameters, _given(spec)
    kept: dict[str, Any] = {}
    for name, value in (spec.get("init_args") or {}).items():
        if name in given or (name in own and isinstance(value, (*PLAIN, list, tuple))):
            kept[name] = worth_recording(value) if is_spec(value) else value
    return {**spec, "init_args": kept}


def defaults_of(path: str) -> dict[str, Any]:
    """The arguments of a class or function, also those that it passes on as **kwargs, with their defaults; none if it
    cannot be imported."""
    try:
        return _defaults(import_object(path)).as_dict()
    except (ImportError, AttributeError, ValueError, ArgumentError):
        return {}


def is_spec(value: Any) -> bool:
    """Whether a value of a config describes an object."""
    return isinstance(value, Mapping) and "class_path" in value


def _arguments(spec: Mapping[str, Any]) -> dict[str, Any]:
    return {**(spec.get("init_args") or {}), **(spec.get("dict_kwargs") or {})}


def _required(target: Any) -> set[str]:
    """Names of the arguments without a default."""
    parameters = inspect.signature(target).parameters.values() if callable(target) else ()
    return {p.name for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}


def _builder(spec: Mapping[str, Any]) -> Any:
    """The class or function of a spec; for one that builds a registered model by name, the builder of that model."""
    target = import_object(spec["class_path"])
    place = definition(target)
    return (place in BY_NAME and registered_model(place, _arguments(spec).get(BY_NAME[place]))) or target


def _package(spec: Mapping[str, Any]) -> str:
    """The package of models that a spec's class or function belongs to; empty if it is none of them."""
    place = definition(import_object(spec["class_path"]))
    return next((package.partition(".")[0] for package in MODELS if place.startswith(f"{package}.")), "")


def _loads_weights(value: Any) -> bool:
    """Whether pretrained weights are named anywhere in a spec."""
    if isinstance(value, Mapping):
        if is_spec(value) and _package(value) and any(_arguments(value).get(name) for name in LOADS_WEIGHTS):
            return True
        return any(map(_loads_weights, value.values()))
    return isinstance(value, list | tuple) and any(map(_loads_weights, value))


def _changed(value: Any, kept: collections.abc.Callable[[Mapping[str, Any], str], bool]) -> Any:
    """A spec in which each model of torchvision or timm has only the arguments for which `kept(spec, name)` is true."""
    if isinstance(value, list | tuple):
        return type(value)(_changed(item, kept) for item in value)
    if not isinstance(value, Mapping):
        return value
    changed = {key: _changed(item, kept) for key, item in value.items()}
    for part in ("init_args", "dict_kwargs") if is_spec(value) and _package(value) else ():
        changed[part] = {name: item for name, item in (changed.get(part) or {}).items() if kept(value, name)}
    return changed


def _where_to_put(spec: Mapping[str, Any]) -> str:
    """What to do on a machine without network."""
    with suppress(ValueError, KeyError):
        weights, given = torchvision.models.get_model_weights(_builder(spec)), _arguments(spec)["weights"]
        name = getattr(given, "name", given).rpartition(".")[2]
        return f"put {weights[name].url} into {torch.hub.get_dir()}/checkpoints"
    return (
        "copy the cache of a machine that has them (HF_HOME, by default ~/.cache/huggingface, and "
        f"{torch.hub.get_dir()}/checkpoints), or give their file by --model.init_from"
    )


def _build(spec: Mapping[str, Any], form: str = "instance") -> Any:
    target = import_object(spec["class_path"])
    arguments, hints = _arguments(spec), argument_types(target)
    arguments = {name: _argument(name, value, hints.get(name, Any)) for name, value in arguments.items()}
    return partial(target, **arguments) if form == "factory" else target(**arguments)


def _argument(name: str, value: Any, hint: Any) -> Any:
    found = list(leaves(hint))
    if all(leaf.is_plain for leaf in found):
        return _converted(name, value, hint)
    forms = {leaf.form for leaf in found if not leaf.is_plain and leaf.kind is not object}
    if is_spec(value):
        return _build(value, "instance" if "instance" in forms else "factory")
    if isinstance(value, str) and forms and "." in value and Leaf(str) not in found:
        return _build({"class_path": value}) if forms == {"instance"} else import_object(value)
    if isinstance(value, Mapping):
        return {key: _argument(name, item, hint) for key, item in value.items()}
    if isinstance(value, list | tuple):
        items = [_argument(name, item, hint) for item in value]
        return tuple(items) if typing.get_origin(hint) is tuple else items
    return value


def _converted(name: str, value: Any, hint: Any) -> Any:
    """A plain value as its type hint wants it: a list becomes a tuple, a string an Enum or a Path."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--value", type=hint)
    try:
        return parser.parse_object({"value": value}).value
    except ArgumentError as error:
        raise ValueError(f"{name} is {value!r}, which is not of type {inspect.formatannotation(hint)}") from error


def _functions(target: Any) -> Iterator[Any]:
    """The functions whose arguments a class or function takes, as far as hints tell; the last one wins."""
    if inspect.isclass(target):
        yield from (vars(base)["__init__"] for base in reversed(inspect.getmro(target)) if "__init__" in vars(base))
        return
    returned = _hints_of(target).get("return")
    if inspect.isclass(returned):
        yield from _functions(returned)
    yield target


def _hints_of(function: Any) -> dict[str, Any]:
    """Each type hint by itself, so that one that only a type checker can resolve hides no other."""
    hints: dict[str, Any] = {}
    for name, annotation in getattr(function, "__annotations__", {}).items():
        with suppress(Exception):
            alone = types.SimpleNamespace(__annotations__={name: annotation})
            hints |= typing.get_type_hints(alone, getattr(function, "__globals__", {}))
    return hints


def _defaults(target: Any) -> Namespace:
    parser = ArgumentParser(exit_on_error=False)
    add: Any = parser.add_class_arguments if inspect.isclass(target) else parser.add_function_arguments
    add(target, fail_untyped=False)
    return parser.get_defaults()


def _given(spec: Mapping[str, Any]) -> set[str]:
    """Names of the arguments that differ from their defaults."""
    target = import_object(spec["class_path"])
    defaults = dict(_defaults(target).items(nested=False))
    for function in _functions(target):  # jsonargparse lists no defaults that are classes
        parameters = inspect.signature(function).parameters.items()
        defaults |= {name: parameter.default for name, parameter in parameters if inspect.isclass(parameter.default)}
    arguments = (spec.get("init_args") or {}).items()
    return {name for name, value in arguments if name not in defaults or not _same(defaults[name], value)}


def _same(default: Any, value: Any) -> bool:
    if is_spec(value) and inspect.isclass(default):  # jsonargparse makes a spec of a default that is a class
        return import_object(value["class_path"]) is default and not _given(value)
    try:
        return default is value or bool(default == value)
    except (TypeError, ValueError, RuntimeError):  # arrays and tensors
        return False
