"""What is taken from the config.yaml beside a stranger's checkpoint."""

from pathlib import Path

import pytest
from project_for_tests import DATA, MODEL

from litengine import project
from litengine.cli.remembered import tracker_of

LOGGER = "trainer: {logger: [{class_path: litengine.loggers.Wandb, init_args: {%s}}]}"


@pytest.fixture(autouse=True)
def package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(project, "_paths", (MODEL, DATA))


def test_name_and_id_of_the_tracker_are_taken(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(LOGGER % "name: a, id: b, project: c, dir: d")
    assert tracker_of(tmp_path)[0]["init_args"] == {"name": "a", "id": "b"}


def test_an_id_that_is_a_pattern_is_not_taken(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(LOGGER % "id: '*', name: a")
    assert tracker_of(tmp_path)[0]["init_args"] == {"name": "a"}


@pytest.mark.parametrize("logger", ["text", "7", "[text, 7, {a: 1}]", "{class_path: os.system, init_args: {a: b}}"])
def test_loggers_that_are_none_are_skipped(logger: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.yaml").write_text(f"trainer: {{logger: {logger}}}")
    assert tracker_of(tmp_path) is False
    (tmp_path / "config.yaml").write_text("trainer: {}")
    assert tracker_of(tmp_path) is False and "config.yaml is missing or damaged" in capsys.readouterr().out
    (tmp_path / "config.yaml").write_text("trainer: {logger: {class_path: litengine.loggers.Wandb, init_args: [x]}}")
    assert tracker_of(tmp_path)[0]["init_args"] == {}


@pytest.mark.parametrize("key", ["name", "project"])
def test_aliases_that_make_billions_of_values_are_refused(
    key: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lists = ["a0: &a0 []", *(f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]" for level in range(1, 10))]
    (tmp_path / "config.yaml").write_text("\n".join([*lists, LOGGER % f"{key}: *a9"]))
    assert tracker_of(tmp_path) is False
    assert "over 100,000 values" in capsys.readouterr().out


@pytest.mark.parametrize("content", ["[" * 5000, "a: 1\n# sha256 of all above: 0\n"])
def test_a_damaged_config_costs_the_tracker_not_the_test(
    content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.yaml").write_text(content)
    assert tracker_of(tmp_path) is False
    assert "config.yaml is missing or damaged" in capsys.readouterr().out
