"""Writes the JSON schema of the configs, with which editors complete and check them.

python scripts/schema.py configs/schema.json
"""

import collections.abc
import inspect
import json
import sys
from contextlib import suppress
from datetime import timedelta
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from docstring_parser import parse as parse_docstring
from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningArgumentParser
from torch import Tensor

from litcnn.data import ImageData
from litcnn.model import ImageClassifier
from litengine import project
from litengine import training as callbacks
from litengine.cli.trainer import CLI

GROUPS: dict[str, type] = {
    "trainer": Trainer,
    "model": ImageClassifier,
    "data": ImageData,
    "checkpoints": callbacks.Checkpoints,
    "numerics": callbacks.CheckNumerics,
}
OTHERS = {
    "seed_everything": bool | int,
    "name": str | None,
    "runs": str,
    "trust": list[str],
    "test_after_fit": bool,
    "resume": str | None,
    "ckpt_path": str | None,
    "weights_only": bool | None,
}
# Where the classes are that an editor offers, with their arguments; a config may name any other too
SHIPPED = (
    "litcnn.networks",
    "litcnn.augment",
    "litengine.optim",
    "litengine.data",
    "litengine.loggers",
    "torch.optim",
    "torch.optim.lr_scheduler",
    "lightning.pytorch.callbacks",
    "lightning.pytorch.loggers",
)
PLAIN = {bool: "boolean", int: "integer", float: "number", str: "string", NoneType: "null"}
TEXT = (Path, timedelta)

Schema = dict[str, Any]


def config_schema() -> Schema:
    """What a config of `fit` may say. Nothing is required, for a second config lies over the first."""
    definitions: dict[str, Schema] = {}
    settings = ParserOfFit().fit_parser.get_defaults().as_dict()
    properties = {name: {**_of_type(hint, definitions), "default": settings[name]} for name, hint in OTHERS.items()}
    for name, described in GROUPS.items():
        group = _of_arguments(described, definitions)
        # only what can be set: a setting that follows another is none
        settable = {key: value for key, value in group["properties"].items() if key in settings[name]}
        added = {
            f"{key}+": {**value, "description": f"Added to the {key} of the configs before."}
            for key, value in settable.items()
            if _takes_lists(value)
        }
        group["properties"] = settable | added
        properties[name] = group
    packages = ("lightning", "torch", "torchvision")
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "$comment": f"made by `make schema` with {', '.join(f'{package} {version(package)}' for package in packages)}",
        "title": "A config of LitCNN",
        **_object(properties),
        "definitions": dict(sorted(definitions.items())),
    }


class ParserOfFit(CLI):
    """Makes the parser of `fit`, and nothing more."""

    def __init__(self) -> None:
        project.use("litcnn.model.ImageClassifier", "litcnn.data.ImageData")
        with suppress(SystemExit):
            super().__init__(["fit"])

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        super().add_arguments_to_parser(parser)
        self.fit_parser = parser

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        raise SystemExit


def _object(properties: Schema, **more: Any) -> Schema:
    return {"type": "object", "properties": properties, "additionalProperties": False, **more}


def _of_arguments(described: type, definitions: dict[str, Schema], skip: int = 0) -> Schema:
    """An object with the arguments of a class, but for the first `skip`."""
    try:
        hints = get_type_hints(described.__init__)  # type: ignore[misc]
    except NameError:  # of what is imported for type checkers only
        hints = {}
    texts = [inspect.getdoc(described), inspect.getdoc(described.__init__)]  # type: ignore[misc]
    written = {p.arg_name: p.description for text in texts for p in parse_docstring(text or "").params}
    properties: Schema = {}
    parameters = list(inspect.signature(described).parameters.values())[skip:]
    for parameter in parameters:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        value = {**_of_type(hints.get(parameter.name, Any), definitions)}
        if text := written.get(parameter.name):
            value["description"] = _first_paragraph(text)
        if isinstance(parameter.default, bool | int | float | str):
            value["default"] = parameter.default
        properties[parameter.name] = value
    open_ended = any(parameter.kind == parameter.VAR_KEYWORD for parameter in parameters)
    if open_ended and described.__base__ and described.__module__.startswith("litengine."):
        # its **kwargs are those of the base class
        inherited = _of_arguments(described.__base__, definitions)
        return {**inherited, "properties": {**properties, **inherited["properties"], **properties}}
    return _object(properties, additionalProperties=True) if open_ended else _object(properties)


def _of_type(hint: Any, definitions: dict[str, Schema]) -> Schema:
    """What a value of this type looks like in YAML; {} where that cannot be told."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return {}
    if hint in PLAIN:
        return {"type": PLAIN[hint]}
    if hint in TEXT or origin is type:
        return {"type": "string"}
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin in (Union, UnionType):
        classes = tuple(kind for kind in arguments if _is_plain_class(kind))
        if len(classes) > 1:  # one list of class paths: with one for each base, wrong arguments would fit the other
            others = [argument for argument in arguments if argument not in classes]
            return _any_of([_of_class(classes, definitions), *(_of_type(kind, definitions) for kind in others)])
        return _any_of([_of_type(argument, definitions) for argument in arguments if argument is not Tensor])
    if origin is collections.abc.Callable:
        taken, made = arguments if arguments else ([], None)
        made = get_args(made) if get_origin(made) in (Union, UnionType) else (made,)
        objects = all(inspect.isclass(kind) and kind not in (*PLAIN, Any) for kind in made)
        return _of_class(made, definitions, skip=len(taken)) if objects else {}
    kind = origin or hint
    if not inspect.isclass(kind) or kind is object:
        return {}
    if issubclass(kind, collections.abc.Mapping):
        return {"type": "object", "additionalProperties": _of_type(arguments[1], definitions) if arguments else True}
    if issubclass(kind, collections.abc.Iterable):
        items = _of_type(arguments[0], definitions) if len(set(arguments) - {Ellipsis}) == 1 else {}
        return {"type": "array", "items": items}
    return _of_class((kind,), definitions)


def _is_plain_class(kind: Any) -> bool:
    """Whether values of this type are objects that a config names by a class path."""
    if not inspect.isclass(kind) or kind in (*PLAIN, *TEXT, object, Tensor):
        return False
    return not issubclass(kind, collections.abc.Iterable) and get_origin(kind) is None


def _of_class(bases: tuple[type, ...], definitions: dict[str, Schema], skip: int = 0) -> Schema:
    """An object of one of these classes, or of a subclass: its class path, alone or with arguments."""
    name = bases[0].__name__
    if name not in definitions:
        definitions[name] = {}  # a class may take objects of its own kind
        known = {
            f"{module}.{key}": value
            for module in SHIPPED
            for key, value in sorted(vars(import_module(module)).items())
            if inspect.isclass(value) and issubclass(value, bases) and value not in bases
            if not inspect.isabstract(value) and not key.startswith("_")
        }
        conditions = [
            {
                "if": {"properties": {"class_path": {"const": path}}, "required": ["class_path"]},
                "then": {"properties": {"init_args": _of_arguments(known[path], definitions, skip)}},
            }
            for path in known
        ]
        properties = {
            "class_path": {"type": "string", "examples": list(known)},
            "init_args": {"type": "object"},
            "dict_kwargs": {"type": "object"},
        }
        definitions[name] = {
            **_object(properties),
            "type": ["string", "object"],
            "examples": list(known),
            **({"allOf": conditions} if conditions else {}),
        }
    return {"$ref": f"#/definitions/{name}"}


def _any_of(parts: list[Schema]) -> Schema:
    names = list(dict.fromkeys(part["type"] for part in parts if part.keys() == {"type"}))
    others = [part for part in parts if part.keys() != {"type"}]
    merged = [{"type": names[0] if len(names) == 1 else names}] if names else []
    together = [*others, *merged]
    return together[0] if len(together) == 1 else {"anyOf": together}


def _takes_lists(schema: Schema) -> bool:
    return any(part.get("type") == "array" for part in [schema, *schema.get("anyOf", [])])


def _first_paragraph(text: str) -> str:
    return " ".join(text.split("\n\n")[0].split())


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(json.dumps(config_schema(), indent=1) + "\n")
