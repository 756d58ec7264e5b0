"""docs/updating.md: its commands update the engine in a renamed project that has changes of its own."""

import os
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pages import ROOT, blocks

RENAME: dict[str, Any] = runpy.run_path(str(ROOT / "scripts/rename.py"))
OLD = RENAME["NAME"]
COMMANDS = [
    shlex.split(line)
    for block in blocks("docs/updating.md")
    for line in block.text.splitlines()
    if line.startswith("git ")
]


def git(folder: Path, *words: str) -> str:
    command = ["git", "-c", "user.name=me", "-c", "user.email=me@example.org", "-c", "protocol.file.allow=always"]
    return subprocess.run([*command, *words], cwd=folder, check=True, capture_output=True, text=True).stdout


def commit(folder: Path) -> None:
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "A step")


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize("history", [True, False])
def test_the_engine_is_replaced_and_the_project_is_kept(history: bool, tmp_path: Path) -> None:
    template, mine = tmp_path / "template", tmp_path / "mine"
    git(tmp_path, "init", "--quiet", "--initial-branch", "main", str(template))
    for path in RENAME["ENGINE"]:
        copy = shutil.copytree if (ROOT / path).is_dir() else shutil.copy
        (template / path).parent.mkdir(parents=True, exist_ok=True)
        copy(ROOT / path, template / path)
    for folder in ("scripts", f"src/{OLD}", "configs"):
        shutil.copytree(ROOT / folder, template / folder)
    shutil.copy(ROOT / "main.py", template)
    (template / ".gitignore").write_text("__pycache__/\n*.ckpt\n/runs/\n")
    write(template / "src/litengine/data/old.py", "OLD = 1\n")
    commit(template)

    git(tmp_path, "clone", "--quiet", str(template), str(mine))
    if not history:  # the project was begun with the template's files only
        shutil.rmtree(mine / ".git")
        git(mine, "init", "--quiet", "--initial-branch", "main")
        commit(mine)
    subprocess.run([sys.executable, "scripts/rename.py", "flower_net"], cwd=mine, check=True, capture_output=True)
    model = mine / "src/flower_net/model.py"
    model.write_text(model.read_text().replace('"""Probabilities', '"""Mine. Probabilities'))
    write(mine / "src/flower_net/networks/own.py", "OWN = 1\n")
    commit(mine)

    (template / "src/litengine/data/old.py").unlink()
    version = template / "src/litengine/__init__.py"
    version.write_text(version.read_text() + 'NEWS = "of the new engine"\n')
    write(template / "src/litengine/data/sources/new.py", "NEW = 1\n")
    write(template / f"src/{OLD}/model.py", "raise RuntimeError\n")
    commit(template)

    before = git(mine, "ls-files", "--stage", "src/flower_net", "configs", "main.py", "scripts")
    for words in COMMANDS:
        git(mine, *(str(template) if word == "ADDRESS" else word for word in words[1:]))
    git(mine, "commit", "--quiet", "--message", "Update the engine")
    assert git(mine, "diff", "template/main", "--stat", "--", *RENAME["ENGINE"]) == ""
    assert not (mine / "src/litengine/data/old.py").exists() and (mine / "src/litengine/data/sources/new.py").exists()
    assert git(mine, "ls-files", "--stage", "src/flower_net", "configs", "main.py", "scripts") == before
    assert not (mine / f"src/{OLD}").exists()

    env = {**os.environ, "PYTHONPATH": str(mine / "src")}
    for words, printed in {
        ("-c", "import litengine; print(litengine.NEWS)"): "of the new",
        ("main.py", "--version"): "flower_net",
    }.items():
        done = subprocess.run([sys.executable, *words], cwd=mine, env=env, capture_output=True, text=True, check=True)
        assert done.stdout.startswith(printed)
