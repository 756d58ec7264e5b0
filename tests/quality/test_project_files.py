"""The files around the code name targets, paths and versions that exist."""

import json
import re
import shlex
from pathlib import Path

import yaml

import litcnn

ROOT = Path(__file__).parents[2]
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))


def test_the_workflow_runs_what_exists_with_the_oldest_python() -> None:
    jobs = yaml.safe_load((ROOT / ".github/workflows/tests.yml").read_text())["jobs"]
    runs = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
    for program, *words in map(shlex.split, runs):
        assert program != "make" or set(words) <= TARGETS
        assert program != "bash" or (ROOT / words[0]).is_file()
    oldest = re.search(r'requires-python = ">=([\d.]+)"', (ROOT / "pyproject.toml").read_text())
    assert oldest and oldest[1] in jobs["newest"]["strategy"]["matrix"]["python"]


def test_citation_and_changelog_have_this_version() -> None:
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == litcnn.__version__
    assert re.search(rf"^## {re.escape(litcnn.__version__)}\b", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)


def test_paths_and_targets_in_the_documents_exist() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    assert set(re.findall(r"\bmake ([a-z-]+)", text)) <= TARGETS
    paths = [*re.findall(r"\]\(([^):]+)\)", text), *re.findall(r"`([\w.-]+/[\w./-]*)`", text)]
    ((schema, _),) = json.loads((ROOT / ".vscode/settings.json").read_text())["yaml.schemas"].items()
    readme = re.findall(r"\]\(([^)#:]+)\)", (ROOT / "README.md").read_text())
    assert paths and readme and [path for path in [*paths, *readme, schema] if not (ROOT / path).exists()] == []
