"""The schema accepts what the program accepts, and names the place of a mistake."""

import json
import re
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft7Validator
from jsonschema.exceptions import best_match
from schema import GROUPS, ParserOfFit, config_schema

ROOT = Path(__file__).parents[2]
CONFIGS = sorted({*(ROOT / "configs").rglob("*.yaml")} - {ROOT / "configs/sweep.yaml"})  # a file of W&B
SCHEMA = json.loads((ROOT / "configs/schema.json").read_text())


@pytest.fixture(scope="module")
def made() -> dict[str, Any]:
    return json.loads(json.dumps(config_schema()))


def complaint(config: Any) -> str | None:
    error = best_match(Draft7Validator(SCHEMA).iter_errors(config))
    return error and f"{error.json_path}: {error.message}"


def test_the_file_is_what_is_made(made: dict[str, Any]) -> None:
    Draft7Validator.check_schema(SCHEMA)
    if made["$comment"] == SCHEMA["$comment"]:  # the same versions of the libraries
        assert made == SCHEMA, "make schema"
    for group in GROUPS:
        if group != "trainer":
            assert made["properties"][group] == SCHEMA["properties"][group], "make schema"


def test_every_setting_of_fit_is_in_it(made: dict[str, Any]) -> None:
    settings = ParserOfFit().fit_parser.get_defaults().as_dict()
    assert set(made["properties"]) == settings.keys() - {"config"}
    for group in GROUPS:
        properties = made["properties"][group]["properties"]
        assert {name for name in properties if not name.endswith("+")} == settings[group].keys()


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_every_config_follows_it(path: Path) -> None:
    assert complaint(yaml.safe_load(path.read_text())) is None


@pytest.mark.parametrize(
    ("place", "value", "expected"),
    [
        ("modle", {}, r"\$: .*modle"),
        ("trainer.max_epochs", "many", r"\$.trainer.max_epochs: .*integer"),
        ("model.tta", "flop", r"\$.model.tta: 'flop' is not one of \['none', 'flip', 'flip\+shift'\]"),
        ("model.network.init_args", {"depht": 1}, r"\$.model.network.init_args: .*depht"),
        ("model.optimizer.init_args.lr", "fast", r"\$.model.optimizer.init_args.lr: 'fast' is not of type 'number'"),
        ("data.augment.0.init_args.mode", "mirror", r"\$.data.augment\[0\].init_args.mode: 'mirror' is not one of"),
        ("data.seed", 1, r"\$.data: .*seed"),  # it follows seed_everything
    ],
)
def test_a_mistake_is_named_with_its_place(place: str, value: Any, expected: str) -> None:
    config = deepcopy(yaml.safe_load((ROOT / "configs/resnet.yaml").read_text()))
    *path, last = place.split(".")
    inner = config
    for key in path:
        inner = inner[int(key)] if isinstance(inner, list) else inner.setdefault(key, {})
    inner[last] = value
    assert re.match(expected, complaint(config) or "")


@pytest.mark.parametrize(
    "config",
    [
        {"model": {"network": "torchvision.models.resnet18"}},
        {"model": {"network": {"class_path": "my_networks.Net", "init_args": {"anything": 1}}}},
        {"model": {"network": {"init_args": {"hidden": 1}}, "lr_scheduler": None}},  # over a config that names it
        {"trainer": {"logger": False, "devices": [0, 1], "callbacks+": [], "max_time": "00:01:00:00"}},
        {},
    ],
)
def test_a_valid_config_passes(config: dict[str, Any]) -> None:
    assert complaint(config) is None
