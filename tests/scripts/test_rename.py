"""scripts/rename.py on a small repository, and on a copy of this one with a run that was trained before."""

import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = "scripts/rename.py"


KNOWN: dict[str, Any] = runpy.run_path(str(ROOT / SCRIPT))
OLD, TITLE = KNOWN["NAME"], KNOWN["TITLE"]
INIT = f'"""{TITLE}."""\n\nFORMER_NAMES: tuple[str, ...] = ()  # of this package\n'
FILES = {
    "LICENSE": f"Copyright of {TITLE}\n",
    "README.md": f"# {TITLE}\r\n\r\n`{OLD} fit`, my_{OLD}, {OLD}-runs, {OLD}s\r\n",
    "pyproject.toml": f'name = "{OLD}"\n{OLD} = "{OLD}.__main__:main"\n',
    "requirements.txt": "scikit-learn==1.9.1\n",
    "docs/studies.md": f"{TITLE} of the engine\n",
    "notes.ipynb": f'{{"source": "import torch\\nfrom {OLD} import load"}}\n',
    f"src/{OLD}/__init__.py": INIT,
    f"src/{OLD}/net.py": f"from {OLD} import FORMER_NAMES\n\n\ndef predict(images, *, flags): ...\n",
    "src/litengine/module.py": f'"""Names {OLD}."""\n',
    f"tests/{OLD}/test_net.py": f"import {OLD}\n",
}
PICTURE = b"\x89PNG\r\n\xff " + OLD.encode()


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-c", "user.name=me", "-c", "user.email=me@example.org", "-C", str(folder), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def commit(folder: Path) -> None:
    git(folder, "init", "--quiet")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "A step")


def rename(project: Path, name: str, **env: str) -> tuple[int, str]:
    """The exit code, and what was printed."""
    command = [sys.executable, str(project / SCRIPT), name]
    process = subprocess.run(command, env={**os.environ, **env}, capture_output=True, text=True)
    return process.returncode, process.stdout + process.stderr


def texts(project: Path) -> dict[str, str]:
    paths = {str(path.relative_to(project)) for path in project.rglob("*") if path.is_file()}
    own = (path for path in paths - {"a.png", SCRIPT} if not {".git", ".ruff_cache"} & {*Path(path).parts})
    return {path: (project / path).read_bytes().decode() for path in own}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    project = tmp_path / "project"
    for path, text in FILES.items():
        (project / path).parent.mkdir(parents=True, exist_ok=True)
        (project / path).write_bytes(text.encode())
    (project / "a.png").write_bytes(PICTURE)
    (project / ".gitignore").write_text(".ruff_cache\n*.egg-info\n")
    (project / "scripts").mkdir()
    shutil.copy(ROOT / SCRIPT, project / SCRIPT)
    commit(project)
    return project


def test_the_project_gets_the_name_and_the_engine_keeps_every_byte(project: Path) -> None:
    (project / f"src/{OLD}.egg-info").mkdir()
    code, printed = rename(project, "my_flowers")
    assert code == 0, printed
    kept = ("LICENSE", "requirements.txt", "docs/studies.md", "src/litengine/module.py")
    assert texts(project) == {path: FILES[path] for path in kept} | {
        ".gitignore": ".ruff_cache\n*.egg-info\n",
        "README.md": f"# MyFlowers\r\n\r\n`my_flowers fit`, my_{OLD}, my_flowers-runs, {OLD}s\r\n",
        "pyproject.toml": 'name = "my_flowers"\nmy_flowers = "my_flowers.__main__:main"\n',
        "notes.ipynb": '{"source": "import torch\\nfrom my_flowers import load"}\n',
        "src/my_flowers/__init__.py": INIT.replace(TITLE, "MyFlowers").replace("()", f'("{OLD}",)'),
        "src/my_flowers/net.py": FILES[f"src/{OLD}/net.py"].replace(OLD, "my_flowers"),
        "tests/my_flowers/test_net.py": "import my_flowers\n",
    }
    assert (project / "a.png").read_bytes() == PICTURE
    assert not (project / f"src/{OLD}").exists() and not (project / f"src/{OLD}.egg-info").exists()
    assert all(line[1] == " " for line in git(project, "status", "--porcelain").splitlines())  # all staged


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("my-project", "letters, digits and single underscores.* such as my_project"),
        ("2cats", "begin with a letter, such as cats"),
        ("größe", "lower-case letters"),
        ("match", "a word of Python"),
        ("litengine", "a file or folder of this project"),
        ("json", "a package that is installed"),
        ("scikit_learn", "a package that is installed or that this project needs"),
        ("predict", rf"is used in src/{OLD}/net\.py"),
    ],
)
def test_bad_names_change_nothing(project: Path, name: str, reason: str) -> None:
    code, printed = rename(project, name)
    assert code == 1 and re.match(f"error: '?{name}'? .*{reason}", printed), printed
    assert not git(project, "status", "--porcelain")


def test_what_git_could_not_restore_is_refused(project: Path) -> None:
    (project / "new.py").write_text("# mine")
    code, printed = rename(project, "my_flowers")
    assert code == 1 and "commit these changes first" in printed and "new.py" in printed
    shutil.rmtree(project / ".git")
    code, printed = rename(project, "my_flowers", GIT_CEILING_DIRECTORIES=str(project.parent))
    assert code == 1 and "is not a git checkout" in printed and "git init && git add --all && git commit" in printed
    git(project, "init", "--quiet")
    code, printed = rename(project, "my_flowers")
    assert code == 1 and "is not committed: git init" in printed
    assert texts(project).items() >= FILES.items()


def copy_of_this_project(folder: Path) -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout: its files are not known")
    for path in set(git(ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0")):
        if (ROOT / path).is_file():  # and not just deleted
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / path, folder / path)
    commit(folder)


def of_engine(folder: Path) -> dict[str, bytes]:
    tracked = git(folder, "ls-files").splitlines()
    return {path: (folder / path).read_bytes() for path in tracked if KNOWN["of_engine"](path)}


@pytest.mark.slow
def test_this_project_and_its_older_runs_work_under_two_new_names(tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    copy_of_this_project(clone)
    env = {**os.environ, "PYTHONPATH": str(clone / "src")}

    def run(*command: str) -> str:
        done = subprocess.run([sys.executable, *command], cwd=clone, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    few = ["--trainer.limit_train_batches", "4", "--data.batch_size", "32", "--model.network.init_args.hidden", "16"]
    few += ["--data.source", "litengine.data.Digits", "--model.network.init_args.widths", "[8, 8]"]
    configs = ["--config", "configs/cnn.yaml", "--config", "configs/with/no_tracker.yaml"]
    run("main.py", "fit", *configs, *few, "--trainer.max_epochs", "1")
    engine = of_engine(clone)
    assert {path.partition("/")[0] for path in engine} == {"src", "tests", "docs"}

    for name in ("flower_net", "second_name"):
        code, printed = rename(clone, name)
        assert code == 0, printed
        git(clone, "commit", "--quiet", "--message", name)
        assert of_engine(clone) == engine
        own = set(git(clone, "ls-files").splitlines()) - {*engine, "LICENSE"}
        left = {path for path in own if re.search(rf"\b{OLD}\b", (clone / path).read_bytes().decode(errors="replace"))}
        assert {path for path in left if not path.endswith(".png")} == {f"src/{name}/__init__.py"}
        run("-m", "ruff", "check", ".")
    run("-c", "import second_name; second_name.load('best.ckpt')")
    run("main.py", "test", "--ckpt_path", "best.ckpt")
    run("main.py", "fit", "--resume", "last", "--trainer.max_epochs", "2")
    samples = ("second_name/networks", "litengine/optim", "litengine/test_views.py", "litengine/test_architecture.py")
    run("-m", "pytest", "-n", "0", "-m", "not slow", *(f"tests/{sample}" for sample in samples))
