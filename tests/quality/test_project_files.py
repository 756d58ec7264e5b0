"""The files around the code: what they name is there, and what can be run here is run."""

import json
import os
import re
import shlex
import subprocess
import sys
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

import litcnn

ROOT = Path(__file__).parents[2]
WORKFLOW = ".github/workflows/tests.yml"
HOOKS = ".pre-commit-config.yaml"
FORMS = [".github/ISSUE_TEMPLATE/bug.yml", ".github/ISSUE_TEMPLATE/wish.yml"]
YAML = [WORKFLOW, HOOKS, ".github/dependabot.yml", ".github/ISSUE_TEMPLATE/config.yml", *FORMS, "CITATION.cff"]
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))


def read(path: str) -> Any:
    return yaml.safe_load((ROOT / path).read_text())


def commands() -> list[list[str]]:
    """What the jobs of the workflow run, word by word."""
    jobs = read(WORKFLOW)["jobs"].values()
    return [shlex.split(step["run"]) for job in jobs for step in job["steps"] if "run" in step]


@pytest.mark.parametrize("path", YAML)
def test_it_is_yaml(path: str) -> None:
    assert isinstance(read(path), dict)


def test_the_workflow_covers_what_is_promised() -> None:
    jobs = read(WORKFLOW)["jobs"]
    assert set(jobs) == {"lint", "newest", "lowest", "docs", "container"}
    matrix = jobs["newest"]["strategy"]["matrix"]
    assert {name.partition("-")[0] for name in matrix["os"]} == {"ubuntu", "macos"}
    oldest = re.search(r'requires-python = ">=([\d.]+)"', (ROOT / "pyproject.toml").read_text())
    assert oldest and oldest[1] in matrix["python"]
    assert jobs["lowest"]["steps"][1]["with"]["python-version"] == oldest[1]
    assert all(job["timeout-minutes"] <= 60 for job in jobs.values())
    assert read(WORKFLOW)["permissions"] == {"contents": "read"}


@pytest.mark.parametrize("command", commands(), ids=" ".join)
def test_what_the_workflow_runs_is_there(command: list[str]) -> None:
    program, *words = command
    if program == "make":
        assert set(words) <= TARGETS
    elif program == "bash":
        script = ROOT / words[0]
        assert script.is_file()
        assert not words[1:] or re.search(rf"^\W*{words[1]}\b", script.read_text(), flags=re.MULTILINE)
    elif program == "mkdocs":
        assert (ROOT / "mkdocs.yml").is_file()
    else:
        assert command[:4] == ["python", "-m", "pip", "install"]


def test_actions_and_hooks_are_pinned() -> None:
    jobs = read(WORKFLOW)["jobs"].values()
    used = {step["uses"] for job in jobs for step in job["steps"] if "uses" in step}
    assert used and all(re.fullmatch(r"actions/[\w-]+@v\d+", name) for name in used)
    assert all(re.fullmatch(r"v\d+\.\d+\.\d+", repo["rev"]) for repo in read(HOOKS)["repos"] if repo["repo"] != "local")


def test_hooks_run_the_tools_of_the_environment_on_what_make_lint_checks() -> None:
    (local,) = (repo for repo in read(HOOKS)["repos"] if repo["repo"] == "local")
    entries = {hook["id"]: hook["entry"].split() for hook in local["hooks"]}
    lint = re.search(r"^lint:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    assert lint
    linted = set(re.findall(r"\$\(BIN\)/(\w+)", lint[1]))
    assert {Path(entry[0]).name for entry in entries.values()} == linted
    for program, *words in entries.values():
        here = Path(sys.executable).parent / Path(program).name
        said = subprocess.run([here, *words, "--help"], capture_output=True, text=True, check=False)
        assert said.returncode == 0, said.stderr


def test_no_file_is_larger_than_its_hook_allows() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if not listed.stdout:
        pytest.skip("not a git checkout")
    limits = {
        hook.get("files", "."): int(hook["args"][0].removeprefix("--maxkb=")) * 1024
        for repo in read(HOOKS)["repos"]
        for hook in repo["hooks"]
        if hook["id"] == "check-added-large-files"
    }
    sizes = {name: (ROOT / name).stat().st_size for name in listed.stdout.split("\0") if (ROOT / name).is_file()}
    assert len(limits) == 2 and any(name.endswith(".ipynb") for name in sizes)
    for pattern, limit in limits.items():
        assert {name: size for name, size in sizes.items() if re.search(pattern, name) and size > limit} == {}


def test_dependabot_watches_what_is_here() -> None:
    watched = {update["package-ecosystem"] for update in read(".github/dependabot.yml")["updates"]}
    assert watched == {"pip", "github-actions", "docker"}
    assert (ROOT / "requirements.txt").is_file() and (ROOT / "Dockerfile").is_file()


@pytest.mark.parametrize("path", FORMS)
def test_forms_ask_what_github_can_show(path: str) -> None:
    form = read(path)
    assert form["name"] and form["description"]
    assert all(part["type"] == "textarea" and part["attributes"]["label"] for part in form["body"])
    ids = [part["id"] for part in form["body"]]
    assert len(ids) == len(set(ids))


def test_the_citation_is_of_this_version() -> None:
    citation = read("CITATION.cff")
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert citation["version"] == litcnn.__version__
    assert (
        citation["license"] == re.search(r'^license = "(.*)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[1]
    )


def test_the_changelog_knows_this_version() -> None:
    assert re.search(rf"^## {re.escape(litcnn.__version__)}\b", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)


def test_what_contributing_names_is_there() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    made = set(re.findall(r"\bmake ([a-z-]+)", text))
    assert made and made <= TARGETS
    links = re.findall(r"\]\(([^):]+)\)", text)
    paths = re.findall(r"`([\w.-]+/[\w./-]*)`", text)
    assert links and all((ROOT / path).exists() for path in [*links, *paths])
    modules = re.findall(r"python -m ([\w.]+)", text)
    assert all(find_spec(module) for module in modules)


def test_editors_find_the_schema_and_the_environment() -> None:
    settings = json.loads((ROOT / ".vscode/settings.json").read_text())
    ((schema, patterns),) = settings["yaml.schemas"].items()
    assert (ROOT / schema).is_file()
    for pattern in patterns:
        assert list(ROOT.glob(pattern.removeprefix("!")))
    makefile = (ROOT / "Makefile").read_text()
    assert settings["python.defaultInterpreterPath"] == f"{re.search('^BIN := (.*)', makefile, re.MULTILINE)[1]}/python"
    wanted = json.loads((ROOT / ".vscode/extensions.json").read_text())["recommendations"]
    assert {"charliermarsh.ruff", "redhat.vscode-yaml"} <= set(wanted)
    assert settings["[python]"]["editor.defaultFormatter"] in wanted


def test_the_editorconfig_has_the_line_length_of_ruff() -> None:
    wide = re.search(r"^max_line_length = (\d+)", (ROOT / ".editorconfig").read_text(), re.MULTILINE)
    assert wide and f"line-length = {wide[1]}\n" in (ROOT / "pyproject.toml").read_text()


def test_scripts_are_bash() -> None:
    script = ROOT / "scripts/lowest.sh"
    subprocess.run(["bash", "-n", script], check=True)
    assert os.access(script, os.X_OK)


@pytest.mark.parametrize("category", [DeprecationWarning, FutureWarning, PendingDeprecationWarning])
def test_a_warning_of_what_will_go_is_an_error_in_our_code_only(category: type[Warning]) -> None:
    with pytest.raises(category):
        warnings.warn_explicit("old", category, "module.py", 1, module="litengine.datamodule")
    with warnings.catch_warnings(record=True) as caught:
        warnings.warn_explicit("old", category, "module.py", 1, module="torch.nn")
    assert len(caught) == 1
