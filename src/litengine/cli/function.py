"""Verbs that are functions: their arguments are the options, their docstring is the help."""

import inspect
from argparse import ArgumentError
from collections.abc import Callable
from typing import Any

from docstring_parser import parse as parse_docstring
from jsonargparse import ArgumentParser

from litengine import project
from litengine.cli import errors


def run(function: Callable[..., Any], args: list[str]) -> None:
    """Calls `function` with the options in `args`, of which the first is the verb."""
    parser = make_parser(function)
    try:
        options = parser.parse_args(args[1:]).as_dict()
    except ArgumentError as error:
        errors.stop(errors.explain(str(error), args, parser))
    if "trust" in options:
        options["trust"] = [project.package(), *options["trust"]]
    function(**options)


def make_parser(function: Callable[..., Any]) -> ArgumentParser:
    """A parser of the function's arguments; one that is a list[str] takes several words."""
    documentation = parse_docstring(inspect.getdoc(function) or "")
    help_of = {parameter.arg_name: parameter.description for parameter in documentation.params}
    parser = ArgumentParser(
        prog=f"main.py {function.__name__}",
        description=documentation.short_description,
        allow_abbrev=False,
        exit_on_error=False,
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
