import json
from pathlib import Path

import pytest

from litengine.study.options import parse
from litengine.study.settings import directory_of, record, recordable

SETTINGS = {
    "seed_everything": 0,
    "trainer": {"max_epochs": 4, "accelerator": "cpu", "logger": False},
    "model": {"network": {"class_path": "networks.CNN", "init_args": {"widths": [8, 16]}}},
    "data": {"source": {"class_path": "litengine.data.Digits"}},
    "runs": "runs",
    "name": None,
}


def recorded(key=None, value=None, varied="folds", number=3):
    settings = json.loads(json.dumps(SETTINGS))
    if key:
        *parts, last = key.split(".")
        place = settings
        for part in parts:
            place = place[part]
        place[last] = value
    record(Path("s"), recordable({varied: number}, settings))


@pytest.mark.parametrize(
    ("key", "value"),
    [(None, None), ("trainer.accelerator", "gpu"), ("trainer.logger", None), ("runs", "x"), ("name", "y")],
)
def test_the_same_study_continues_also_with_another_machine_or_tracker(key, value):
    recorded()
    recorded(key, value)
    assert json.loads(Path("s/study.json").read_text())["folds"] == 3


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"key": "trainer.max_epochs", "value": 5}, "trainer.max_epochs was 4, is now 5"),
        ({"key": "model.network.init_args.widths", "value": [8]}, r"init_args.widths was \[8, 16\], is now \[8\]"),
        ({"key": "model.network.init_args.new", "value": 1}, "init_args.new was not set, is now 1"),
        ({"number": 4}, "folds was 3, is now 4"),
        ({"varied": "seeds"}, "folds was 3, is now not set, seeds was not set, is now 3"),
        ({"key": "data", "value": dict.fromkeys("abcde", 1)}, "c was not set, is now 1, and 2 more; use those"),
    ],
)
def test_other_settings_are_refused_and_named(changes, words):
    recorded()
    with pytest.raises(ValueError, match=f"s holds a study with other settings: .*{words}.*choose another --name"):
        recorded(**changes)


def test_a_damaged_record_is_named():
    recorded()
    Path("s/study.json").write_text('{"folds": ')
    with pytest.raises(ValueError, match="study.json is damaged"):
        recorded()


@pytest.mark.parametrize(
    ("args", "name"),
    [
        (["--config", "configs/cnn.yaml", "--config", "configs/with/cosine.yaml"], "cnn-what"),
        (["--config=configs/cnn.yaml"], "cnn-what"),
        (["-c", "configs/cnn.yaml"], "cnn-what"),
        ([], "digits-what"),
        (["--config", "configs/cnn.yaml", "--name", "mine"], "mine"),
    ],
)
def test_a_study_is_named_after_the_first_config_and_what_it_varies(args, name):
    options = parse(["--folds", "2", "--runs", "here", *args])
    assert directory_of(options, SETTINGS, "what") == Path.cwd() / "here" / name
