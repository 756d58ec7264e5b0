"""The files around the code name targets, paths and versions that exist."""

import json
import re
import shlex
import warnings
from pathlib import Path
from typing import Any

import pytest
import yaml

import litcnn

ROOT = Path(__file__).parents[2]
WORKFLOW = ".github/workflows/tests.yml"
FORMS = [".github/ISSUE_TEMPLATE/bug.yml", ".github/ISSUE_TEMPLATE/wish.yml"]
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))


def read(path: str) -> Any:
    return yaml.safe_load((ROOT / path).read_text())


@pytest.mark.parametrize("path", [WORKFLOW, ".pre-commit-config.yaml", "CITATION.cff", *FORMS])
def test_it_is_yaml(path: str) -> None:
    assert isinstance(read(path), dict)


def test_the_workflow_runs_what_exists_with_the_oldest_python() -> None:
    jobs = read(WORKFLOW)["jobs"]
    steps = [step for job in jobs.values() for step in job["steps"]]
    for program, *words in (shlex.split(step["run"]) for step in steps if "run" in step):
        assert program != "make" or set(words) <= TARGETS
        assert program != "bash" or (ROOT / words[0]).is_file()
    assert all(re.fullmatch(r"actions/[\w-]+@v\d+", step["uses"]) for step in steps if "uses" in step)
    oldest = re.search(r'requires-python = ">=([\d.]+)"', (ROOT / "pyproject.toml").read_text())
    assert oldest and oldest[1] in jobs["newest"]["strategy"]["matrix"]["python"]


def test_citation_and_changelog_have_this_version() -> None:
    assert read("CITATION.cff")["version"] == litcnn.__version__
    assert re.search(rf"^## {re.escape(litcnn.__version__)}\b", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)


def test_what_contributing_names_exists() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    assert set(re.findall(r"\bmake ([a-z-]+)", text)) <= TARGETS
    paths = [*re.findall(r"\]\(([^):]+)\)", text), *re.findall(r"`([\w.-]+/[\w./-]*)`", text)]
    assert paths and [path for path in paths if not (ROOT / path).exists()] == []


def test_editors_find_schema_and_environment() -> None:
    settings = json.loads((ROOT / ".vscode/settings.json").read_text())
    ((schema, patterns),) = settings["yaml.schemas"].items()
    assert (ROOT / schema).is_file() and all(list(ROOT.glob(pattern.removeprefix("!"))) for pattern in patterns)
    assert settings["python.defaultInterpreterPath"] == ".venv/bin/python"


def test_a_deprecation_is_an_error_in_our_code_only() -> None:
    with pytest.raises(DeprecationWarning):
        warnings.warn_explicit("old", DeprecationWarning, "module.py", 1, module="litengine.datamodule")
    with warnings.catch_warnings(record=True) as caught:
        warnings.warn_explicit("old", DeprecationWarning, "module.py", 1, module="torch.nn")
    assert len(caught) == 1
