"""Errors of the user: one line that says what was given, where, and what was probably meant."""

import errno
import os
import re
import sys
import traceback
from collections.abc import Iterable
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import NoReturn

from jsonargparse import ArgumentParser

from litengine import project
from litengine.cli.settings import Setting, Settings, full_path, plain
from litengine.files import visible

LISTED = 8  # known names in a message
NOT_A_BUG = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR}
LIBRARIES = ("torch", "torchvision", "lightning", "timm", "jsonargparse")
# Lines of jsonargparse that repeat a type, or the value
NOISE = re.compile(
    r"^\s*(?:- )?(?:Does not validate|Subtypes:|Errors:|Given value|Subclass types|a class path|a dict|"
    r"Expected a path|Expected a <class 'NoneType'>|Not a valid subclass of Callback).*$"
    r"|Type typing\.Callable.*?callable class: |\.? Got value: .*$|<class '|'>|typing\.|collections\.abc\.",
    re.M,
)


def stop(message: str) -> NoReturn:
    """Ends the program with one line and exit code 2."""
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
    from lightning.fabric.utilities.exceptions import MisconfigurationException  # slow

    if isinstance(error, MisconfigurationException) or (isinstance(error, OSError) and error.errno in NOT_A_BUG):
        return True
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    modules = [str(frame.f_globals.get("__name__", "")) for frame in frames] or [""]
    package = modules[-1].partition(".")[0]
    if package in ("litengine", project.package()):
        return isinstance(error, ValueError | OSError)
    building = any(frame.f_code.co_name in ("instantiate_classes", "configure_optimizers") for frame in frames)
    if building or modules[-1].startswith("lightning.pytorch.callbacks."):
        return package in LIBRARIES and isinstance(error, ValueError | TypeError | RuntimeError | ImportError)
    return package == "lightning" and isinstance(error, ValueError)


def wrong_verb(args: list[str], verbs: list[str]) -> str | None:
    """What is wrong with a command line that does not begin with a verb."""
    if args and args[0] in verbs:
        twice = [arg for arg in args if arg.partition("=")[0] == "--ckpt_path"][1:]
        if twice and args[0] == "predict":
            return "give --ckpt_path once, with all checkpoints after it"
        return f"{args[0]} takes one checkpoint: give --ckpt_path once" if twice else None
    if given := next((arg for arg in args if arg in verbs), None):
        return f"{given} comes first, and all options and configs after it: {given} --config …"
    if not args or args[0].startswith("-"):
        return f"say what to do: {', '.join(verbs)}"
    return f"unknown verb {args[0]}{hint(get_close_matches(args[0], verbs, 1), verbs)}"


def explain(message: str, args: list[str], parser: ArgumentParser) -> str:
    """jsonargparse's message about a command line in one line: with the place, without its dumps of types."""
    settings = Settings(args, parser)
    for setting in settings.given:
        if (unknown := settings.unknown_part(setting.key)) and unknown.rpartition(".")[2] in message:
            what = f"unknown key {setting.key}" if setting.place else f"unknown option --{setting.key}"
            return f"{setting.place}{what}{_meant(unknown, settings, '' if setting.place else '--')}"
    for word in args[1:]:
        if not word.startswith("-") and message.endswith((f": {word}", f" {word}")) and "unrecognized" in message:
            key, equals, value = word.partition("=")
            if equals and not settings.unknown_part(key):
                return f"unexpected {word}: write --{key} {value}"
            if word.endswith(".ckpt"):
                return f"unexpected {word}: {args[0]} takes one checkpoint"
            return f"unexpected {word}" + (f": did you mean --config {word}?" if Path(word).is_file() else "")
    lines = [line.strip().removeprefix("- ") for line in NOISE.sub("", message).splitlines()]
    reason = " ".join(dict.fromkeys(line for line in lines if line))
    key = ".".join(dict.fromkeys(re.findall(r'Parser key "([^"]+)"', message)))
    about = [s for s in settings.given if key and f"{plain(s.key)}.".startswith(f"{key}.")]
    if not about:
        return re.sub(r'Parser key "([^"]+)"', r"\1", reason)
    setting = next((s for s in reversed(about) if s.value and s.value in message), about[-1])
    reason = re.sub(r'Parser key "[^"]+": ?', "", reason)
    return f"{setting} is {setting.value or 'not right'}: {reason}{_class_meant(setting)}"


def hint(near: list[str], known: Iterable[str]) -> str:
    known = list(known)
    if near:
        return f": did you mean {near[0]}?"
    return f": known are {', '.join(known[:LISTED])}{', …' * (len(known) > LISTED)}" if known else ""


def _meant(unknown: str, settings: Settings, dashes: str) -> str:
    """The key beside an unknown one with a similar name, or one elsewhere with its name."""
    parent, _, wrong = unknown.rpartition(".")
    start = f"{parent}." if parent else ""
    beside = dict.fromkeys(k.removeprefix(start).split(".")[0] for k in settings.known if k.startswith(start))
    if near := get_close_matches(wrong, beside, 1):
        return hint([f"{dashes}{start}{near[0]}"], [])
    leaves = {key.rpartition(".")[2]: key for key in reversed(settings.known)}
    return hint([f"{dashes}{leaves[leaf]}" for leaf in get_close_matches(wrong, leaves, 1, cutoff=0.7)], beside)


def _class_meant(setting: Setting) -> str:
    """A class with a similar name, where a class is expected that cannot be imported."""
    module = setting.value.rpartition(".")[0]
    home, _, name = full_path(plain(setting.key), setting.value).rpartition(".")
    if not home or not re.fullmatch(r"[\w.]+", setting.value):
        return ""
    try:
        names = [known for known in dir(import_module(home)) if known[0].isupper() or module]
    except ImportError:
        beside = Path(f"{home.partition('.')[0]}.py")
        return f" ({beside} is here, but Python looks for it on PYTHONPATH only)" if beside.exists() else ""
    near = [] if name in names else get_close_matches(name, names, 1)
    return f"; did you mean {home}.{near[0]}?" if near else ""
