"""What went wrong, said once, to the person who can mend it.

jsonargparse knows what is wrong, but neither where it stands nor what was meant. So the kind of mistake is taken from
its message, and what the user gave is read a second time, with line numbers.
"""

import errno
import importlib
import inspect
import linecache
import os
import re
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import yaml
from jsonargparse import ArgumentParser

from litengine import project

LISTED = 8  # of the known names, where none is near
NOT_A_BUG = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR}
HOMES = {
    "model.network": "litcnn.networks",
    "model.optimizer": "torch.optim",
    "model.lr_scheduler": "torch.optim.lr_scheduler",
    "data.source": "litengine.data",
}
SPEC = ("class_path", "init_args", "dict_kwargs")

# The words of jsonargparse that are relied upon; tests/test_errors.py has each of them said.
UNKNOWN = re.compile(r"unrecognized arguments: (\S+)|(?:does not accept option|Option) '([^']+)'")
REQUIRED = re.compile(r"the following arguments are required: ([\w., -]+)")
NO_CLASS = re.compile(
    r"module '[\w.]+' has no attribute|No module named|Expected a dot import path string: ([A-Za-z]\w*)"
)
OTHER_CLASS = re.compile(
    r"Import path (\S+) does not correspond to a subclass of (.+)|Expected '(\S+)' to be a subclass of ([^.]+)"
)
ANNOUNCED = re.compile(r"given class_path '([\w.]+)'")
DUMPED = re.compile(r"class_path(?:=|': )'([\w.]+)'")
NOISE = re.compile(r"Subtypes:|Given value type|Subclass types expect|- a (class path|dict)|- Expected a path|Errors:")


class Setting(NamedTuple):
    """One thing the user gave: its dotted key, its value as written, and `file:line: ` unless it was a flag."""

    key: str
    value: str
    place: str = ""

    def __str__(self) -> str:
        return f"{self.place}{self.key}" if self.place else f"--{self.key}"


class UnreadableConfigError(Exception):
    """A config that is not there, or no config; the message is for the user."""


def stop(message: str) -> NoReturn:
    """Says what was wrong and ends the program with exit code 2. Nothing else: no traceback, no usage."""
    sys.stderr.write(f"error: {message.strip()}\n")
    sys.exit(2)


def is_for_the_user(error: Exception) -> bool:
    """Whether an error is about what the user gave, and its message says it all: one that this package raised on
    purpose (ValueError, OSError), or Lightning's about its settings; what anybody raised on purpose while things were
    built from the settings (an unknown strategy, a negative learning rate), or a callback (EarlyStopping, of a metric
    that is not there); a disk that is full or not ours to write on. `LITCNN_TRACEBACK=1` shows tracebacks always."""
    if os.environ.get("LITCNN_TRACEBACK"):
        return False
    from lightning.fabric.utilities.exceptions import MisconfigurationException  # slow

    if isinstance(error, MisconfigurationException) or (isinstance(error, OSError) and error.errno in NOT_A_BUG):
        return True
    frames = list(traceback.walk_tb(error.__traceback__))
    if not frames:
        return False
    frame, line = frames[-1]
    module = frame.f_globals.get("__name__", "")
    if module.startswith(("litengine.", f"{project.package()}.")):
        return isinstance(error, ValueError | OSError)
    # a TypeError may as well be a bug, but hardly one that somebody wrote `raise` for
    on_purpose = linecache.getline(frame.f_code.co_filename, line).lstrip().startswith("raise ")
    building = any(f.f_code.co_name in ("instantiate_classes", "configure_optimizers") for f, _ in frames)
    kinds = ValueError | TypeError | RuntimeError | ImportError
    return isinstance(error, kinds) and on_purpose and (building or module.startswith("lightning.pytorch.callbacks."))


def explain(message: str, args: list[str], parsers: Mapping[str, ArgumentParser]) -> str:
    """What jsonargparse's `message` about the command line `args` means; `parsers` are those of the verbs."""
    try:
        settings = list(_given(args))
        keys = list(parsers[next(arg for arg in args if arg in parsers)].get_defaults().keys())
        return (
            _unknown_key(message, settings, keys)
            or _missing(message, settings)
            or _wrong_class(message, settings)
            or _wrong_type(message, settings)
            or _condensed(message)
        )
    except UnreadableConfigError as error:
        return str(error)
    except Exception:  # whatever is wrong in here, the user must see what jsonargparse said
        return _condensed(message)


def wrong_verb(args: list[str], verbs: list[str]) -> str | None:
    """What is wrong with a command line that does not begin with a verb."""
    if args and args[0] in verbs:
        return None
    if given := next((arg for arg in args if arg in verbs), None):
        return f"{given} comes first, and all options and configs after it: {given} --config …"
    if not args or args[0].startswith("-"):
        return f"say what to do: {', '.join(verbs)}"
    return f"unknown verb {args[0]}{_hint(get_close_matches(args[0], verbs, 1), verbs)}"


# What was given


def classes_given(args: list[str]) -> set[str]:
    """The dotted keys that are given one word, as a class path or null is, by a flag or a config."""
    with suppress(UnreadableConfigError):  # which jsonargparse will meet too
        return {s.key.removesuffix(".class_path") for s in _given(args) if re.fullmatch(r"[\w.]+", s.value)}
    return set()


def _given(args: list[str]) -> Iterator[Setting]:
    for arg, following in zip(args, [*args[1:], ""], strict=False):
        if not arg.startswith("--") and arg != "-c":
            continue
        key, equals, value = arg.lstrip("-").partition("=")
        key, value = key.rstrip("+"), value if equals or following.startswith("--") else following
        if key in ("c", "config"):
            yield from _of_config(value)
        else:
            yield Setting(key, value)
            yield from _of_yaml(value, key, "") if value.startswith("{") else ()


def _of_config(config: str) -> Iterator[Setting]:
    path = Path(config)
    if config.startswith("{"):  # so the CLI passes on what a checkpoint remembers
        yield from _of_yaml(config, "", "config of the checkpoint")
    elif path.is_file():
        yield from _of_yaml(path.read_text("utf-8"), "", config)
    elif config and "://" not in config:
        there = {found.stem: str(found) for found in sorted(path.parent.glob("*.y*ml"))}
        what = f"{config} is a folder, not a config" if path.is_dir() else f"there is no config {config}"
        near = [there[stem] for stem in get_close_matches(path.stem, there, 1)]
        raise UnreadableConfigError(what + (_hint(near, there.values()) if there else ""))


def _of_yaml(text: str, prefix: str, file: str) -> Iterator[Setting]:
    def flat(node: yaml.Node, prefix: str) -> Iterator[Setting]:
        pairs = node.value if isinstance(node, yaml.MappingNode) else []
        if isinstance(node, yaml.SequenceNode):
            pairs = [(yaml.ScalarNode("", str(i), item.start_mark), item) for i, item in enumerate(node.value)]
        for name, value in pairs:
            key = f"{prefix}.{name.value}" if prefix else name.value
            written = text[value.start_mark.index : value.end_mark.index].strip()
            yield Setting(key, written.strip("'\""), f"{file}:{name.start_mark.line + 1}: " if file else "")
            yield from flat(value, key)

    try:
        root = yaml.compose(text, yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        position = f":{error.problem_mark.line + 1}:{error.problem_mark.column + 1}" if error.problem_mark else ""
        reason = ", ".join(filter(None, (error.context, error.problem)))
        raise UnreadableConfigError(f"{file}{position}: not valid YAML: {reason}") from error
    if not isinstance(root, yaml.MappingNode):
        raise UnreadableConfigError(f"{file} holds {'no settings' if root else 'nothing'}: write such as `data: …`")
    yield from flat(root, prefix)


def _find(settings: list[Setting], key: str, message: str = "") -> Setting:
    """The last given under `key`, or below it, whether or not with `init_args` and positions in lists; rather one
    whose value the message has."""

    def plain(key: str) -> str:
        return re.sub(r"\.(\d+|init_args)(?=\.)", "", key)

    found = [s for s in settings if plain(s.key) == plain(key)]
    found = found or [s for s in settings if plain(s.key).startswith(f"{plain(key)}.")] or [Setting(key, "")]
    return next((s for s in reversed(found) if s.value and s.value in message), found[-1])


# What was wrong


def _unknown_key(message: str, settings: list[Setting], keys: list[str]) -> str | None:
    if not (match := UNKNOWN.search(message)):
        return None
    name = (match[1] or match[2]).split("=")[0].rstrip("+")
    if match[1] and not name.startswith("--"):
        return f"unexpected {name}" + (f": did you mean --config {name}?" if Path(name).is_file() else "")
    parts = name.lstrip("-").split(".")
    if cls := _class_around(message, match):
        depth, start, known = 0, f"{_key(message)}.", _arguments(cls, "callable class" in message)
    else:
        tree = [key.split(".") for key in keys]
        depth = next(i for i in range(len(parts)) if not any(key[: i + 1] == parts[: i + 1] for key in tree))
        start, known = "", [key[depth] for key in tree if key[:depth] == parts[:depth] and len(key) > depth]
    wrong = parts[depth]
    setting = _find(settings, start + ".".join(parts[: depth + 1]))
    near = get_close_matches(wrong, [*known, *SPEC] if cls else known, 1)
    meant = [f".{setting.key}.".replace(f".{wrong}.", f".{name}.", 1).strip(".") for name in near]
    if not near and not cls:  # its place may be elsewhere in the tree, as that of --max_epochs
        leaves = {key.rpartition(".")[2]: key for key in reversed(keys)}
        meant = [leaves[leaf] for leaf in get_close_matches(parts[-1], leaves, 1, cutoff=0.7)]
    what = f"{setting.place}unknown key {setting.key}" if setting.place else f"unknown option {setting}"
    dashes = "" if setting.place else "--"
    return what + (f" of {cls}" if cls else "") + _hint([dashes + key for key in meant], dict.fromkeys(known))


def _missing(message: str, settings: list[Setting]) -> str | None:
    if not (match := REQUIRED.search(message)):
        return None
    if not (cls := _class_around(message, match)):
        first = match[1].split(", ")[0]
        key = first.partition(".")[2] or first  # without the verb
        return f"{_find(settings, key)} is required"
    # the class may have been given by its name alone
    given = next((s for s in reversed(settings) if s.value and f".{cls}".endswith(f".{s.value}")), Setting("", ""))
    here = given._replace(key=_key(message))
    needs = [str(here._replace(key=f"{here.key}.init_args.{name}", place="")) for name in match[1].split(", ")]
    return f"{here} is {cls}, which needs {' and '.join(needs)}"


def _wrong_class(message: str, settings: list[Setting]) -> str | None:
    key, other, missing = _key(message), OTHER_CLASS.search(message), NO_CLASS.search(message)
    if other:
        path, kind = other[1] or other[3], re.sub(r"<class|[<>()' ]", "", other[2] or other[4])
        return f"{_place(path, settings, key)} is {path}, which is not of the type {kind}"
    if not missing or re.search(r"Subtypes: .*class '(int|float|str)'", message):
        return None
    path = missing[1] or _class_around(message, missing) or _find(settings, key, message).value
    module, _, name = path.rpartition(".")
    what = f"{_place(path, settings, key)} is {path}"
    # a bare name is looked for where the types that were expected live, and where most of its kind do
    homes = [module] if module else re.findall(r"([a-z]\w*(?:\.\w+)+)\.\w+\.[A-Z]", message)
    homes += [] if module else [HOMES.get(key, "litcnn")]
    try:
        modules = {home: vars(importlib.import_module(home)) for home in homes}
    except ImportError as error:
        beside = f"{path.split('.')[0]}.py"
        hint = f"; {beside} lies there, but Python looks for it on PYTHONPATH only" if Path(beside).exists() else ""
        return f"{what}: {error} (working directory {Path.cwd()}{hint})"
    paths = {n: f"{home}.{n}" for home, names in modules.items() for n, value in names.items() if _is_public(n, value)}
    return f"{what}, which does not exist" + _hint([paths[n] for n in get_close_matches(name, paths, 1)], paths)


def _wrong_type(message: str, settings: list[Setting]) -> str | None:
    key = _key(message)
    setting = _find(settings, key, message)
    if "Unable to load config" in message:
        return f"{setting} is {setting.value}: must be a group of settings, or a file that is there"
    expected = re.findall(r"Subtypes: \[(.*)\]$", message, re.M)[-1:]
    expected = expected or re.findall(r"Expected an? (?!path)(.*?)(?:\. Got value.*)?$", message, re.M)
    expected = expected or ["the path of a class"] * ("Not a valid subclass" in message)
    expected = [re.sub(r"dot import path string.*", "the path of a class", text) for text in expected]
    if not key or not expected:
        return None
    text = re.sub(r"<class '([\w.]+)'>", r"\1", ", ".join(expected))
    text = re.sub(r"\b(?:[A-Za-z_]\w*\.)+(?=\w)", "", text)  # modules
    text = re.sub(r"\b(Sequence|Iterable)\b", "list", text).replace("NoneType", "null").replace("bool", "true, false")
    near = get_close_matches(setting.value, re.findall(r"'([^']*)'", text), 1)
    allowed = dict.fromkeys(re.sub(r"Literal\[([^\]]*)\]", r"\1", text).replace("'", "").split(", "))
    listed = f"one of {', '.join(allowed)}"
    what = (
        f"{setting} is {setting.value or 'not right'}: must be {' or '.join(allowed) if len(allowed) < 5 else listed}"
    )
    return what + (f"; did you mean {near[0]}?" if near else "")


def _condensed(message: str) -> str:
    lines = [line.strip() for line in message.splitlines() if line.strip() and not NOISE.match(line.strip())]
    return re.sub(r'Parser key "([^"]+)"', r"\1", " ".join(lines)) or message


# Keys and classes


def _key(message: str) -> str:
    """The key of which the message speaks; that of a class's argument stands inside that of the class."""
    return ".init_args.".join(dict.fromkeys(re.findall(r'Parser key "([^"]+)"', message)))


def _place(value: str, settings: list[Setting], key: str) -> Setting:
    return next((Setting(key, value, s.place) for s in reversed(settings) if s.value == value), Setting(key, value))


def _hint(near: list[str], known: Iterable[str]) -> str:
    known = list(known)
    if near:
        return f": did you mean {near[0]}?"
    return f": known are {', '.join(known[:LISTED])}{', …' * (len(known) > LISTED)}" if known else ": it takes none"


def _class_around(message: str, match: re.Match[str]) -> str | None:
    """The class whose arguments the match is about: announced before it, or dumped after it."""
    classes = ANNOUNCED.findall(message[: match.end()])[-1:] or DUMPED.findall(message[match.end() :])
    return classes[0] if classes else None


def _arguments(class_path: str, called_later: bool) -> list[str]:
    """Names of all arguments, even those passed on as **kwargs; the first is not the user's where `called_later`."""
    module, _, name = class_path.rpartition(".")
    target = getattr(importlib.import_module(module), name)
    parser = ArgumentParser(exit_on_error=False)
    add: Any = parser.add_class_arguments if inspect.isclass(target) else parser.add_function_arguments
    add(target, fail_untyped=False, skip={1} if called_later else None)
    return [key.split(".")[0] for key, _ in parser.get_defaults().items()]


def _is_public(name: str, value: Any) -> bool:
    return not name.startswith("_") and (inspect.isclass(value) or inspect.isfunction(value))
