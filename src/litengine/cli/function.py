"""Verbs that are functions: their arguments are the options, their docstring is the help."""

import inspect
from argparse import ArgumentError
from collections.abc import Callable
from typing import Any

from docstring_parser import parse
from jsonargparse import ArgumentParser

from litengine import project
from litengine.cli import errors


def call(function: Callable[..., Any], args: list[str]) -> None:
    """Calls `function` with the options in `args` after the verb. One that is a list[str] takes several words."""
    documentation = parse(inspect.getdoc(function) or "")
    parser = ArgumentParser(
        prog=f"main.py {args[0]}",
        description=documentation.short_description,
        allow_abbrev=False,
        exit_on_error=False,
    )
    arguments = inspect.signature(function).parameters
    several = {name for name, argument in arguments.items() if argument.annotation == list[str]}
    parser.add_function_arguments(function, skip={*several}, as_group=False)
    for described in documentation.params:
        if (name := described.arg_name) in several:
            required = (default := arguments[name].default) is inspect.Parameter.empty
            number: dict[str, Any] = {"nargs": "+"} if required else {"nargs": "*", "default": list(default)}
            parser.add_argument(f"--{name}", **number, type=str, required=required, help=described.description)
    try:
        options = parser.parse_args(args[1:]).as_dict()
    except ArgumentError as error:
        errors.stop(errors.explain(error, args, parser))
    if "trust" in options:
        options["trust"] = [project.package(), *options["trust"]]
    function(**options)
