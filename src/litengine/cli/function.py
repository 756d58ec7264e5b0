"""Verbs that are functions: their arguments are the options, their docstring is the help."""

import inspect
from collections.abc import Callable
from typing import Any

from docstring_parser import parse as parse_docstring
from jsonargparse import ArgumentParser

from litengine import project
from litengine.cli import errors


class Parser(ArgumentParser):
    """Tells what was wrong in one message."""

    verb = ""
    given: list[str]

    def error(self, message: str, ex: Exception | None = None) -> Any:
        if not self.exit_on_error:
            super().error(message, ex)
        errors.stop(errors.explain(message, self.given, {self.verb: self}))


def run(function: Callable[..., Any], args: list[str]) -> None:
    """Calls `function` with the options in `args`, of which the first is the verb."""
    parser = make_parser(function)
    parser.given = args
    parser.verb = args[0]
    options = parser.parse_args(args[1:]).as_dict()
    if "trust" in options:
        options["trust"] = [project.package(), *options["trust"]]
    function(**options)


def make_parser(function: Callable[..., Any]) -> Parser:
    """A parser of the function's arguments; one that is a list[str] takes several words."""
    documentation = parse_docstring(inspect.getdoc(function) or "")
    help_of = {parameter.arg_name: parameter.description for parameter in documentation.params}
    parser = Parser(
        prog=f"main.py {function.__name__}", description=documentation.short_description, allow_abbrev=False
    )
    signature = inspect.signature(function).parameters
    several: set[str] = {name for name, parameter in signature.items() if parameter.annotation == list[str]}
    parser.add_function_arguments(function, skip={*several}, as_group=False)
    for name in several:
        default = signature[name].default
        required = default is inspect.Parameter.empty
        parser.add_argument(
            f"--{name}",
            nargs="+" if required else "*",
            type=str,
            required=required,
            default=None if required else list(default),
            help=help_of[name],
        )
    return parser
