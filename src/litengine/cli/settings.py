"""The settings of a command line: what flags and configs give, in which order, and which keys there are."""

import os
import re
from collections.abc import Iterator
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from jsonargparse import ArgumentParser, Namespace, get_loader, set_loader

from litengine import project

HOMES = {  # the module of a class that is given by its name alone
    "model.network": "{project}.networks",
    "model.optimizer": "torch.optim",
    "model.lr_scheduler": "torch.optim.lr_scheduler",
    "model.loss": "torch.nn",
    "data.source": "litengine.data",
    "data.augment": "{project}.augment",
    "trainer.callbacks": "lightning.pytorch.callbacks",
    "trainer.logger": "lightning.pytorch.loggers",
}
CLASS = re.compile(r"[A-Za-z_][\w.]*")
FLAG = 1_000_000  # rank of flags, which win over every config


class Setting(NamedTuple):
    """One thing that was given: its dotted key, its value as written, `file:line: ` unless it was a flag, and the
    number of the config that gave it. A higher rank wins; the settings of a checkpoint or a run have -1."""

    key: str
    value: str
    place: str = ""
    rank: int = FLAG

    def __str__(self) -> str:
        return f"{self.place}{self.key}" if self.place else f"--{self.key}"

    @property
    def plain(self) -> str:
        """The key without what flags may omit, and without positions in lists."""
        return re.sub(r"\.(\d+|init_args|class_path)(?=\.|$)", "", self.key)

    @property
    def class_path(self) -> str:
        """The class that the value names, with its module if it was given by its name alone; empty if it names none."""
        home = HOMES.get(self.plain, "").format(project=project.package())
        if not CLASS.fullmatch(self.value) or not (home or self.key.endswith("class_path")):
            return ""
        return f"{home}.{self.value}" if home and "." not in self.value else self.value


class Settings:
    """What a command line gives to a parser, and the keys that the parser knows, plain as in flags."""

    def __init__(self, args: list[str], parser: ArgumentParser) -> None:
        self.given = list(_given(configs_first(args)))
        self._parser = parser

    def replaced(self) -> set[str]:
        """The keys of model and data that are given by one word, a class path or null."""
        classes = {key for key in HOMES if not key.startswith("trainer.") and key != "data.augment"}
        return classes & {setting.plain for setting in self.given if re.fullmatch(r"[\w.]+", setting.value)}

    def check_effect(self, config: Namespace) -> None:
        """Raises ValueError for a value in place of a group of settings, which jsonargparse ignores, and for a setting
        that has no effect beside another one, unless that came in a later config."""
        for setting in self.given:
            key, value = setting.key, setting.value or "empty"
            is_group = value.startswith("{") or ":" in value or Path(value).is_file()
            if key in ("trainer", "model", "data") and not is_group:
                raise ValueError(f"{setting} is {value}, but must be a group of settings, as in {key}: {{…}}")
        schedule = (config.model.get("lr_scheduler") or {}).get("init_args", {})
        overridden = {  # whether keys are overridden, their pattern, by what, and what to do instead
            r"model\.(optimizer|parameter_groups\..+)\.lr": (schedule.get("max_lr") is not None, "max_lr"),
            r"model\.optimizer\.(momentum|betas)": (schedule.get("cycle_momentum"), "max_momentum"),
            r"data\.val_fraction": (config.data.get("folds"), ""),
        }
        for pattern, (is_overridden, instead) in overridden.items():
            by = "model.lr_scheduler" if instead else "data.folds"
            since = max((setting.rank for setting in self.given if setting.plain == by), default=0)
            for setting in self.given if is_overridden else ():
                if re.fullmatch(pattern, setting.plain) and setting.rank >= max(since, 0):
                    advice = f"set --{by}.{instead}" if instead else "leave it out"
                    raise ValueError(f"{setting} {setting.value} has no effect beside {by}: {advice}")

    @cached_property
    def known(self) -> list[str]:
        """All keys, with those of the arguments of each class that is given, or the default."""
        from litengine.network import defaults_of  # slow

        defaults = [Setting(key, str(value)) for key, value in self._parser.get_defaults().items()]
        arguments = {each.plain: defaults_of(each.value) for each in defaults if each.key.endswith("class_path")}
        for setting in self.given:
            if path := setting.class_path:
                others = arguments.get(setting.plain, {}) if re.search(r"\.\d+\.", setting.key) else {}  # of a list
                arguments[setting.plain] = {**others, **defaults_of(path)}
        inside = tuple(f"{key}." for key in arguments)
        own = [each.key for each in defaults if not f"{each.plain}.".startswith(inside)]
        return [*own, *arguments, *(f"{key}.{name}" for key, names in arguments.items() for name in names)]

    def meant(self, unknown: str, dashes: str) -> str:
        """The end of a message about an unknown key: one with a similar last name, or those that stand beside it."""
        parent, _, wrong = unknown.rpartition(".")
        beside = {key.rpartition(".")[2]: key for key in self.known if key.rpartition(".")[0] == parent}
        names = {**{key.rpartition(".")[2]: key for key in reversed(self.known)}, **beside}
        near = [name for name in (f"max_{wrong}", f"max_{wrong}s") if name in names]
        near = near or get_close_matches(wrong, beside, 1, 0.7) or [wrong][: wrong in names]
        near = near or [name for name in names if name.startswith(f"{wrong}_")]
        if near := near or get_close_matches(wrong, names, 1, 0.7):
            return f": did you mean {dashes}{names[near[0]]}?"
        return f": known are {', '.join([*beside.values()][:9])}{', …' * (len(beside) > 9)}" if beside else ""

    def with_full_names(self, args: list[str]) -> list[str]:
        """The words with the full key in place of each bare option that only one setting ends with: `--lr`, and
        `--epochs` for `max_epochs`."""
        return [f"--{self._full(word[2:])}" if re.match(r"--\w+(=|$)", word) else word for word in args]

    def _full(self, word: str) -> str:
        name, equals, value = word.partition("=")
        if name in ("help", "print_config") or any(key.partition(".")[0] == name for key in self.known):
            return word
        of_trainer = [key for key in self.known if key in (f"trainer.{name}", f"trainer.max_{name}")]
        keys = of_trainer or [key for key in self.known if key.endswith(f".{name}") and "augment" not in key]
        if len(keys) > 1:
            raise ValueError(f"--{name} may mean {' or '.join(f'--{key}' for key in keys)}: write one of them")
        return f"{keys[0]}{equals}{value}" if keys else word


def configs_first(args: list[str]) -> list[str]:
    """The words of a command line with its configs, in their order, right after the verb: flags win wherever they
    stand."""
    configs, others = [], []
    words = iter(args[1:])
    for word in words:
        name, equals, value = word.partition("=")
        if name in ("--config", "-c"):
            configs += ["--config", value if equals else next(words, "")]
        else:
            others.append(word)
    return [*args[:1], *configs, *others]


def split_items(args: list[str]) -> tuple[list[str], list[tuple[str, int, str, Any]]]:
    """The words of a command line without flags for one item of a list, such as `--data.augment.0.padding 4`; and of
    each such flag the key of the list, the position, the argument and the value."""
    others, items = [], []
    words = iter(args)
    for word in words:
        if found := re.fullmatch(r"--([\w.]+)\.(\d+)\.(?:init_args\.)?(\w+)(?:=(.*))?", word):
            value = found[4] if found[4] is not None else next(words, "")
            items.append((found[1], int(found[2]), found[3], yaml.safe_load(value)))
        else:
            others.append(word)
    return others, items


def load_with_environment(text: str) -> Any:
    """jsonargparse's YAML, with the value of a variable of the environment in place of each `${NAME}`.

    Text in braces, as a checkpoint's config is handed on, is left as it is.
    """

    def expanded(value: str) -> Any:
        return _LOADER(re.sub(r"\$\{(\w+)\}", lambda match: os.environ[match[1]], value)) if "${" in value else value

    loaded = _LOADER(text)
    try:
        return project.map_strings(loaded, expanded) if isinstance(loaded, dict) and text[0] != "{" else loaded
    except KeyError as error:
        raise yaml.YAMLError(f"the environment has no variable {error}: set it, or write the value") from None


def _given(args: list[str]) -> Iterator[Setting]:
    rank = 0
    for word, following in zip(args, [*args[1:], ""], strict=True):
        if not word.startswith("--"):
            continue
        key, equals, value = word.removeprefix("--").partition("=")
        value = value if equals or following.startswith("--") else following
        if key != "config":
            yield Setting(key.rstrip("+"), value)
            yield from _of_yaml(value, key, "", FLAG) if value.startswith(("{", "[{")) else ()
        elif value.startswith("{"):  # from a checkpoint: nobody gave it
            yield from _of_yaml(value, "", "config of the checkpoint: ", -1)
        else:
            rank += 1
            recorded = (Path(value).parent / "state.json").is_file()  # it holds defaults too
            yield from _of_yaml(_text(value), "", f"{value}:", -1 if recorded else rank)


def _text(config: str) -> str:
    path = Path(config)
    if path.is_file():
        return path.read_text("utf-8")
    there = [str(found) for folder in (path.parent, Path("configs")) for found in sorted(folder.glob("*.y*ml"))]
    near = get_close_matches(config, there, 1) or there[:1]
    what = f"{path} is a folder, not a config" if path.is_dir() else f"there is no config {config}"
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
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        raise ValueError(f"{place}{line}: not valid YAML: {error.problem}") from error
    if not isinstance(root, yaml.CollectionNode if prefix else yaml.MappingNode):
        raise ValueError(f"{place.rstrip(':')} holds no settings: write such as `data: …`")
    yield from flat(root, prefix)


_LOADER = get_loader("yaml")
set_loader("yaml", load_with_environment, (yaml.YAMLError,))
