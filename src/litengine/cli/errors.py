"""Errors of the user: one line that says what was given, where, and what was probably meant."""

import errno
import os
import re
import sys
import traceback
from difflib import get_close_matches
from importlib import import_module
from typing import NoReturn

from jsonargparse import ArgumentParser

from litengine import project
from litengine.cli.settings import Setting, Settings
from litengine.files import visible

NOT_A_BUG = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR, errno.EISDIR}
LIBRARIES = ("torch", "torchvision", "lightning", "timm", "jsonargparse")
# Lines of jsonargparse that repeat a type, or the value
NOISE = re.compile(
    r"^\s*(?:- )?(?:Does not validate|Subtypes:|Errors:|Given value|Subclass types|a class path|a dict|"
    r"Expected a path|Expected a <class '(?:NoneType|collections.abc.Iterable)'>|Not a valid subclass of Callback).*$"
    r"|Type typing\.Callable.*?callable class: |\.? Got value: .*$|<class '|'>|typing\.|collections\.abc\.",
    re.M,
)
# What jsonargparse says of each other type that a value might have had
ALTERNATIVE = re.compile(r"Import path \S+ does not correspond to a subclass of|Expected a (bool|NoneType)\b")
ELSEWHERE = ("torchvision.models", "torchvision.transforms.v2")  # of classes that people give by name alone


def stop(message: str) -> NoReturn:
    """Ends the program with one line and exit code 2."""
    message = _without_types(message) if NOISE.search(message) else message
    lines = [visible(line) for line in message.strip().split("\n")]  # a library's message may have several
    sys.stderr.write("error: " + "\n".join(lines) + "\n")
    sys.exit(2)


def is_for_the_user(error: Exception) -> bool:
    """Whether the message says all that the user needs. A bug keeps its traceback; so does everything with
    `LITENGINE_TRACEBACK=1`.

    It does for a ValueError or OSError of this program, an error of a library about its settings (while it is built
    from them, or in one of Lightning's callbacks), and a full or protected disk.
    """
    if os.environ.get("LITENGINE_TRACEBACK"):
        return False
    if _in_restoring(error):
        return True
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    module = str(frames[-1].f_globals.get("__name__"))
    package = module.partition(".")[0]
    if package in ("litengine", project.package()):
        return isinstance(error, ValueError | OSError)
    if isinstance(error, OSError):
        return error.errno in NOT_A_BUG
    if module.startswith("lightning."):
        from lightning.fabric.utilities.exceptions import MisconfigurationException  # slow

        if isinstance(error, MisconfigurationException | ValueError):
            return True
    if not module.startswith("lightning.pytorch.callbacks."):
        callers = {frame.f_code.co_name for frame in frames}
        if not callers & {"instantiate_classes", "configure_optimizers"} or package not in LIBRARIES:
            return False
    return isinstance(error, ValueError | TypeError | RuntimeError | ImportError)


def message(error: Exception) -> str:
    """What `stop` prints of an error that is for the user."""
    if not _in_restoring(error):
        return str(error)
    frame = traceback.extract_tb(error.__traceback__)[-1]
    place = f"{os.path.basename(frame.filename)}, line {frame.lineno}"
    return f"the checkpoint cannot be restored: {type(error).__name__}: {error} ({place})"


def _in_restoring(error: Exception) -> bool:
    """Whether Lightning met the error while it restored a checkpoint, which may be damaged or a stranger's."""
    frames = traceback.extract_tb(error.__traceback__)
    return isinstance(error, AttributeError | IndexError | KeyError | RuntimeError | TypeError) and any(
        frame.filename.endswith("checkpoint_connector.py") and "restore" in frame.name for frame in frames
    )


def wrong_verb(args: list[str], verbs: list[str]) -> str | None:
    """What is wrong with a command line that does not begin with a verb."""
    if args and args[0] in verbs:
        twice = [arg for arg in args if arg.partition("=")[0] == "--ckpt_path"][1:]
        return "give --ckpt_path once; predict and test take several checkpoints after it" if twice else None
    if given := next((arg for arg in args if arg in verbs), None):
        return f"{given} comes first, and all options and configs after it: {given} --config …"
    if not args or args[0].startswith("-"):
        return f"say what to do: {', '.join(verbs)}"
    return f"unknown verb {args[0]}{_meant(args[0], verbs)}"


def explain(message: str, args: list[str], parser: ArgumentParser) -> str:
    """jsonargparse's message about a command line in one line: with the place, without its dumps of types."""
    settings = Settings(args, parser)
    if unknown := re.search(r"[Oo]ption '([\w.]+)'|unrecognized arguments: --([\w.]+)", message):
        name = f".{unknown[1] or unknown[2]}"
        for setting in reversed(settings.given):
            if setting.plain not in settings.known and f".{setting.plain}".endswith(name):
                what = f"{setting.place}unknown key " if setting.place else "unknown option --"
                return f"{what}{setting.key}{_meant(setting.plain, settings.known, '' if setting.place else '--')}"
    elif unknown := re.search(r"unrecognized arguments: (\S+)", message):
        name, equals, value = (word := unknown[1]).partition("=")
        plain = Setting(name, value).plain
        if keys := [key for key in settings.known if f".{key}".endswith(f".{plain}")]:
            return f"unexpected {word}: write --{keys[0]} {value or '…'}"
        if equals:
            return f"unexpected {word}{_meant(plain, settings.known, '--')}"
        advice = f"{args[0]} takes one checkpoint" if word.endswith(".ckpt") else "a config follows --config"
        return f"unexpected {word}: {advice}"
    keys = re.findall(r'Parser key "([^"]+)"', message)
    reason = _without_types(re.sub(r'Parser key "[^"]+":? ?', "", message))
    about = [each for each in settings.given if keys and f"{each.plain}.".startswith(f"{keys[0]}.")]
    for setting in reversed(about):
        if setting.value and setting.value in message:
            value = f" is {setting.value}" if len(setting.value) < 80 else ""  # a list that flags changed may be long
            return f"{setting}{value}: {reason}{_class_meant(setting.class_path)}"
    return f"{'.'.join(dict.fromkeys(keys))}: {reason}" if keys else reason


def _without_types(message: str) -> str:
    """A message of jsonargparse in one line, without the types that it tried, and with what to do about a package."""
    lines = [line.strip().removeprefix("- ") for line in NOISE.sub("", message).splitlines()]
    reasons = [line for line in lines if line and not ALTERNATIVE.match(line)] or lines
    reason = " ".join(dict.fromkeys(filter(None, reasons)))
    missing = re.search(r"No module named '(\w+)'", reason)
    return f"{reason}: pip install {missing[1]}, or is {missing[1]}.py in another folder?" if missing else reason


def _meant(unknown: str, known: list[str], dashes: str = "") -> str:
    """The key with a similar last name, if possible beside the unknown one."""
    parent, _, wrong = unknown.rpartition(".")
    beside = [key for key in known if key.rpartition(".")[0] == parent]
    by_name = {key.rpartition(".")[2]: key for key in [*reversed(known), *beside]}
    if near := [name for name in by_name if name.startswith(f"{wrong}_")] or get_close_matches(wrong, by_name, 1):
        return f": did you mean {dashes}{by_name[near[0]]}?"
    return f": known are {', '.join(beside[:9])}{', …' * (len(beside) > 9)}" if beside else ""


def _class_meant(path: str) -> str:
    """A class or function with a similar name, or elsewhere with the same name, in place of one that does not exist."""
    home, _, name = path.rpartition(".")
    try:
        classes = {key.lower(): key for key, value in vars(import_module(home)).items() if callable(value)}
    except (ImportError, ValueError):  # no such module; no class
        return ""
    if name in classes.values():
        return ""
    found = [f"{place}.{name}" for place in ELSEWHERE if hasattr(import_module(place), name)]
    found += [f"{home}.{classes[near]}" for near in get_close_matches(name.lower(), classes, 1)]
    return f"; did you mean {found[0]}?" if found else ""
