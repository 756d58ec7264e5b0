import json
from pathlib import Path

import pytest
from project_for_tests import PACKAGE

from litengine.study.options import parse
from litengine.study.settings import differences, directory_of, record

SETTINGS = {
    "seed_everything": 0,
    "trainer": {"max_epochs": 4, "accelerator": "cpu", "logger": False},
    "model": {"network": {"class_path": f"{PACKAGE}.networks.CNN", "init_args": {"widths": [8, 16]}}},
    "data": {"source": {"class_path": "litengine.data.Digits"}},
    "runs": "runs",
    "name": None,
}


def changed(key, value):
    settings = json.loads(json.dumps(SETTINGS))
    *parts, last = key.split(".")
    place = settings
    for part in parts:
        place = place[part]
    place[last] = value
    return settings


def test_the_same_study_goes_on(tmp_path):
    record(tmp_path / "s", {"folds": 3}, SETTINGS)
    record(tmp_path / "s", {"folds": 3}, SETTINGS)
    assert json.loads((tmp_path / "s/study.json").read_text())["folds"] == 3


@pytest.mark.parametrize(
    ("key", "value"), [("trainer.accelerator", "gpu"), ("trainer.logger", None), ("runs", "x"), ("name", "y")]
)
def test_another_machine_or_tracker_may_go_on_with_it(tmp_path, key, value):
    record(tmp_path / "s", {"folds": 3}, SETTINGS)
    record(tmp_path / "s", {"folds": 3}, changed(key, value))


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("trainer.max_epochs", 5, "trainer.max_epochs was 4, is now 5"),
        ("model.network.init_args.widths", [8], r"model.network.init_args.widths was \[8, 16\], is now \[8\]"),
        ("model.network.init_args.new", 1, "model.network.init_args.new was not there, is now 1"),
    ],
)
def test_other_settings_are_refused_and_named(tmp_path, key, value, words):
    record(tmp_path / "s", {"folds": 3}, SETTINGS)
    with pytest.raises(ValueError, match=f"s holds a study with other settings: {words}; .*choose another --name"):
        record(tmp_path / "s", {"folds": 3}, changed(key, value))


def test_another_kind_of_study_is_refused(tmp_path):
    record(tmp_path / "s", {"folds": 3}, SETTINGS)
    with pytest.raises(ValueError, match="folds was 3, is now 4"):
        record(tmp_path / "s", {"folds": 4}, SETTINGS)
    with pytest.raises(ValueError, match='folds was 3, is now not there, seeds was not there, is now "any"'):
        record(tmp_path / "s", {"seeds": "any"}, SETTINGS)


def test_many_differences_are_counted():
    assert differences(dict.fromkeys("abcdef", 1), dict.fromkeys("abcdef", 2)).endswith("d was 1, is now 2, and 2 more")


def test_a_damaged_record_is_named(tmp_path):
    (tmp_path / "s").mkdir()
    (tmp_path / "s/study.json").write_text('{"folds": ')
    with pytest.raises(ValueError, match="study.json is damaged"):
        record(tmp_path / "s", {"folds": 3}, SETTINGS)


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
