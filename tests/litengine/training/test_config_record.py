"""What a fit records parses to the same config again."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonargparse import ArgumentParser
from project_for_tests import DATA, MODEL

from litengine import project
from litengine.cli.trainer import CLI
from litengine.training import as_settings

CONFIGS = Path(__file__).parents[3] / "configs"
RECIPES = sorted(path.name for path in CONFIGS.glob("*.yaml") if path.name != "sweep.yaml")  # which is a search space
OVERLAYS = sorted(f"with/{path.name}" for path in CONFIGS.glob("with/*.yaml"))


class Unparsed(CLI):
    """Makes the parser of `fit`, and nothing more."""

    def parse_arguments(self, parser: Any, args: Any) -> None:
        raise InterruptedError(self)


@pytest.fixture(scope="module")
def parser() -> ArgumentParser:
    project.use(MODEL, DATA)
    with pytest.raises(InterruptedError) as made:
        Unparsed(["fit"])
    return made.value.args[0].verb_parser


def recorded(parser: ArgumentParser, *args: str) -> dict[str, Any]:
    return as_settings(parser, parser.parse_args(list(args)))


def assert_parses_to_itself(parser: ArgumentParser, settings: dict[str, Any]) -> None:
    Path("config.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    assert recorded(parser, "--config", "config.yaml") == settings


@pytest.mark.parametrize("place", range(len(RECIPES)), ids=RECIPES)
def test_a_shipped_config_parses_to_itself(place: int, parser: ArgumentParser) -> None:
    configs = [RECIPES[place], *OVERLAYS[place :: len(RECIPES)]]  # each overlay lies over one recipe
    given = [word for name in configs for word in ("--config", str(CONFIGS / name))]
    assert_parses_to_itself(parser, recorded(parser, *given))


def nullable(schema: dict[str, Any]) -> bool:
    return (
        "null" in schema.get("type", ())
        or None in schema.get("enum", ())
        or any(map(nullable, schema.get("anyOf", ())))
    )


def test_every_argument_that_may_be_null_stays_null(parser: ArgumentParser) -> None:
    groups = json.loads((CONFIGS / "schema.json").read_text())["properties"]
    keys = [
        f"{group}.{name}"
        for group, schema in groups.items()
        for name, argument in schema.get("properties", {}).items()
        if nullable(argument) and not name.endswith("+")
    ]
    assert {"trainer.max_epochs", "model.lr_scheduler", "checkpoints.mode"} < {*keys}
    settings = recorded(parser, "--config", str(CONFIGS / "digits.yaml"), *(f"--{key}=null" for key in keys))
    values = {key: settings[key.partition(".")[0]][key.partition(".")[2]] for key in keys}
    assert values == dict.fromkeys(keys)
    assert_parses_to_itself(parser, settings)


def test_a_value_that_cannot_be_written_is_named(parser: ArgumentParser) -> None:
    timer = ["--trainer.callbacks=lightning.pytorch.callbacks.Timer", "--trainer.callbacks.duration=00:01:00:00"]
    with pytest.raises(ValueError, match=r"a value cannot be written to config.yaml, .*: .*<Interval.step: 'step'>"):
        recorded(parser, *timer)
