"""The settings of a command line: what flags and configs give, in which order, and which keys there are."""

import inspect
import os
import re
from argparse import ArgumentError
from collections.abc import Iterator
from difflib import get_close_matches
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from jsonargparse import ArgumentParser, Namespace, get_loader, set_loader

from litengine import project

VARIABLE = re.compile(r"\$\{(\w+)\}")
HOMES = {  # the module of a class that is given by its name alone
    "model.network": "{project}.networks",
    "model.optimizer": "torch.optim",
    "model.lr_scheduler": "torch.optim.lr_scheduler",
    "data.source": "litengine.data",
    "data.augment": "{project}.augment",
    "trainer.callbacks": "lightning.pytorch.callbacks",
    "trainer.logger": "lightning.pytorch.loggers",
}
OWN = {"help", "config", "print_config"}
FLAG = 1_000_000  # rank of flags, which win over every config


class Setting(NamedTuple):
    """One thing that was given: its dotted key, its value as written, `file:line: ` unless it was a flag, and the
    number of the config that gave it: a higher rank wins."""

    key: str
    value: str
    place: str = ""
    rank: int = FLAG

    def __str__(self) -> str:
        return f"{self.place}{self.key}" if self.place else f"--{self.key}"


def plain(key: str) -> str:
    """A key without what may be left out in flags, and without positions in lists."""
    return re.sub(r"\.(\d+|init_args|class_path)(?=\.|$)", "", key)


def configs_first(args: list[str]) -> list[str]:
    """The words of a command line with its configs, in their order, right after the verb: flags win wherever they
    stand."""
    configs, others = [], []
    words = iter(args[1:])
    for word in words:
        if word in ("--config", "-c"):
            configs += ["--config", next(words, "")]
        elif word.startswith(("--config=", "-c=")):
            configs += ["--config", word.partition("=")[2]]
        else:
            others.append(word)
    return [*args[:1], *configs, *others]


def load_with_environment(text: str) -> Any:
    """jsonargparse's YAML, with the value of a variable of the environment in place of each `${NAME}`.

    Text in braces, as a checkpoint's config is handed on, is left as it is.
    """
    if "${" not in text or text.startswith("{"):
        return _LOADER(text)

    def expanded(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: expanded(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [expanded(inner) for inner in value]
        return _LOADER(VARIABLE.sub(_variable, value)) if isinstance(value, str) and "${" in value else value

    return expanded(_LOADER(text))


def _variable(match: re.Match[str]) -> str:
    if match[1] not in os.environ:
        raise yaml.YAMLError(f"the environment has no variable {match[1]}, which {match[0]} stands for")
    return os.environ[match[1]]


class Settings:
    """What a command line gives to a parser, and what the parser knows."""

    def __init__(self, args: list[str], parser: ArgumentParser) -> None:
        self.given = list(_given(configs_first(args)))
        self._parser = parser

    @cached_property
    def _defaults(self) -> list[str]:
        return [key for key, _ in self._parser.get_defaults().items()]

    @cached_property
    def _arguments(self) -> dict[str, dict[str, Any] | None]:
        """The arguments of each class that is given, or the default, by its plain key; None if it is unknown."""
        defaults = {plain(key): str(value) for key, value in self._parser.get_defaults().items() if "class_path" in key}
        found = {key: defaults_of(path) for key, path in defaults.items()}
        for setting in self.given:
            key = plain(setting.key)
            if re.fullmatch(r"[A-Za-z_][\w.]*", setting.value) and (key in HOMES or "class_path" in setting.key):
                of_class = defaults_of(full_path(key, setting.value))
                several = re.search(r"\.\d+\.", setting.key) and found.get(key)  # in a list
                found[key] = {**several, **(of_class or {})} if several else of_class
        return found

    def replaced(self) -> set[str]:
        """The keys of model and data that are given by one word, a class path or null."""
        classes = {key for key in HOMES if not key.startswith("trainer.") and key != "data.augment"}
        return classes & {plain(setting.key) for setting in self.given if re.fullmatch(r"[\w.]+", setting.value)}

    def check_overridden(self, config: Namespace) -> None:
        """Raises ValueError for a setting that has no effect beside another one, unless that came in a later config."""
        schedule = config.model.get("lr_scheduler")
        of_schedule = schedule.get("init_args", {}) if schedule else {}
        overridden = {}  # pattern of keys: what overrides them, and what to set instead
        if of_schedule.get("max_lr") is not None:
            overridden[r"model\.(optimizer|parameter_groups\..+)\.lr"] = ("model.lr_scheduler", "max_lr")
        if of_schedule.get("cycle_momentum"):
            overridden[r"model\.optimizer\.(momentum|betas)"] = ("model.lr_scheduler", "max_momentum")
        if config.data.get("folds"):
            overridden[r"data\.val_fraction"] = ("data.folds", "")
        for pattern, (by, instead) in overridden.items():
            since = max((s.rank for s in self.given if plain(s.key) == by), default=0)
            for setting in self.given:
                if re.fullmatch(pattern, plain(setting.key)) and setting.rank >= max(since, 0):
                    advice = f"set --{by}.{instead}" if instead else "leave it out"
                    raise ValueError(f"{setting} {setting.value} has no effect beside {by}: {advice}")

    @cached_property
    def known(self) -> list[str]:
        """All keys, plain as in flags."""
        inside = tuple(f"{key}." for key in self._arguments)
        others = [key for key in self._defaults if not f"{plain(key)}.".startswith(inside)]
        return [
            *others,
            *self._arguments,
            *(f"{key}.{name}" for key, names in self._arguments.items() for name in names or []),
        ]

    def unknown_part(self, key: str) -> str | None:
        """The shortest beginning of a key that is not known; None if the whole key may be known."""
        parts = plain(key).split(".")
        for depth in range(1, len(parts) + 1):
            start = ".".join(parts[:depth])
            if start in self._arguments and self._arguments[start] is not None:
                continue
            if start in self.known or "dict_kwargs" in key:
                return None
            if not any(known.startswith(f"{start}.") for known in self.known):
                return start
        return None

    def with_full_names(self, args: list[str]) -> list[str]:
        """The words with the full key in place of each bare option that only one setting ends with: `--lr`, and
        `--epochs` for `max_epochs`."""
        return [f"--{self._full(word[2:])}" if re.match(r"--\w+(=|$)", word) else word for word in args]

    def _full(self, word: str) -> str:
        name, equals, value = word.partition("=")
        if name in OWN or any(key.partition(".")[0] == name for key in self._defaults):
            return word
        of_trainer = [key for key in self.known if key in (f"trainer.{name}", f"trainer.max_{name}")]
        keys = of_trainer or [key for key in self.known if key.endswith(f".{name}") and "augment" not in key]
        if len(keys) > 1:
            raise ValueError(f"--{name} may mean {' or '.join(f'--{key}' for key in keys)}: write one of them")
        return f"{keys[0]}{equals}{value}" if keys else word


def full_path(key: str, path: str) -> str:
    """A class path, with the module if the class was given by its name alone."""
    home = HOMES.get(key, "").format(project=project.package())
    return f"{home}.{path}" if home and "." not in path else path


def defaults_of(path: str) -> dict[str, Any] | None:
    """The arguments of a class or function, also those that it passes on as **kwargs, with their defaults; None if it
    cannot be imported."""
    module, _, name = path.rpartition(".")
    parser = ArgumentParser(exit_on_error=False)
    try:
        target = getattr(import_module(module), name)
        add: Any = parser.add_class_arguments if inspect.isclass(target) else parser.add_function_arguments
        add(target, fail_untyped=False)
        return parser.get_defaults().as_dict()
    except (ImportError, AttributeError, ValueError, ArgumentError):
        return None


def _given(args: list[str]) -> Iterator[Setting]:
    rank = 0
    for word, following in zip(args, [*args[1:], ""], strict=True):
        if not word.startswith("--"):
            continue
        key, equals, value = word.removeprefix("--").partition("=")
        value = value if equals or following.startswith("--") else following
        if key != "config":
            yield Setting(key.rstrip("+"), value)
            yield from _of_yaml(value, key, "", FLAG) if value.startswith("{") else ()
        elif value.startswith("{"):  # what a checkpoint remembers: nobody gave it
            yield from _of_yaml(value, "", "config of the checkpoint: ", -1)
        else:
            rank += 1
            recorded = (Path(value).parent / "state.json").is_file()  # it holds defaults too
            yield from _of_yaml(_text(value), "", f"{value}:", -1 if recorded else rank)


def _text(config: str) -> str:
    path = Path(config)
    if path.is_file():
        return path.read_text("utf-8")
    there = {found.stem: str(found) for found in sorted(path.parent.glob("*.y*ml"))}
    near = [there[stem] for stem in get_close_matches(path.stem, there, 1)] or list(there.values())
    what = f"{config} is a folder, not a config" if path.is_dir() else f"there is no config {config}"
    raise ValueError(f"{what}: did you mean {near[0]}?" if near else what)


def _of_yaml(text: str, prefix: str, place: str, rank: int) -> Iterator[Setting]:
    def flat(node: yaml.Node, prefix: str) -> Iterator[Setting]:
        pairs = node.value if isinstance(node, yaml.MappingNode) else []
        if isinstance(node, yaml.SequenceNode):
            pairs = [(yaml.ScalarNode("", str(i), item.start_mark), item) for i, item in enumerate(node.value)]
        for name, value in pairs:
            key = f"{prefix}.{name.value.rstrip('+')}".lstrip(".")
            written = text[value.start_mark.index : value.end_mark.index].strip().strip("'\"")
            line = f"{place}{name.start_mark.line + 1}: " if place.endswith(":") else place
            yield Setting(key, written, line, rank)
            yield from flat(value, key)

    try:
        root = yaml.compose(text, yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        position = f"{mark.line + 1}:{mark.column + 1}: " if mark else ""
        raise ValueError(f"{place}{position}not valid YAML: {error.problem}") from error
    if not isinstance(root, yaml.MappingNode):
        raise ValueError(f"{place.rstrip(':')} holds {'no settings' if root else 'nothing'}: write such as `data: …`")
    yield from flat(root, prefix)


_LOADER = get_loader("yaml")
set_loader("yaml", load_with_environment, (yaml.YAMLError,))
