"""scripts/rename.py on a small repository, and on this one."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HOUSE = Path(__file__).parents[2]
SCRIPT = "scripts/rename.py"
PICTURE = b"\x89PNG\r\n\xff litcnn"
FILES = {
    "LICENSE": "Copyright of LitCNN\n",
    "Makefile": (
        ".PHONY: train rename clean\n\ntrain:\n\tlitcnn fit\n\n"
        "rename:  ## makes it yours\n\tpython scripts/rename.py $(NAME)\n\nclean:\n\trm -r .venv\n"
    ),
    "README.md": (
        "# LitCNN\n\nCall it\nby `make rename NAME=my_project`.\n\n"
        "- `litcnn fit`\n- `make rename`,\n  yours\n- end\n\nThe end.\n"
    ),
    "pyproject.toml": '[project]\nname = "litcnn"\n',
    "requirements.txt": "scikit-learn==1.9.1\ntorch==2.15.0 ; python_full_version >= '3.11'\n",
    "configs/a.yaml": "class_path: litcnn.networks.CNN\n",
    "docs/litcnn.md": "LitCNN reads LITCNN_TRACEBACK.\r\n\r\nIts folder is `scripts/`.\r\n",
    "src/litcnn/__init__.py": '"""LitCNN."""\n',
    "src/litcnn/litcnn_net.py": "litcnn_other = 1\n\n\ndef predict(images, *, flags): ...\n",
    "tests/test_net.py": 'import litcnn\n\nlitcnn.mock("litcnn.net")\n',
    "tests/scripts/test_rename.py": "import litcnn\n",
}  # fmt: skip


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-c", "user.name=me", "-c", "user.email=me@example.org", "-C", str(folder), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def commit(folder: Path) -> None:
    git(folder, "init", "--quiet")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "The template")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    project = tmp_path / "project"
    for path, text in FILES.items():
        (project / path).parent.mkdir(parents=True, exist_ok=True)
        (project / path).write_bytes(text.encode())
    (project / "docs/picture.png").write_bytes(PICTURE)
    (project / "CLAIM.md").symlink_to("LICENSE")
    (project / "scripts").mkdir()
    shutil.copy(HOUSE / SCRIPT, project / SCRIPT)
    commit(project)
    return project


def rename(project: Path, *arguments: str, python: Path | str = sys.executable, **env: str) -> tuple[int, str]:
    """The exit code, and what was printed."""
    command = [str(python), str(project / SCRIPT), *arguments]
    process = subprocess.run(command, env={**os.environ, **env}, capture_output=True, text=True, timeout=60)
    return process.returncode, process.stdout + process.stderr


def contents(project: Path) -> dict[str, bytes]:
    files = (path for path in project.rglob("*") if path.is_file() and not path.is_symlink())
    return {
        str(file.relative_to(project)): file.read_bytes()
        for file in files
        if not {".git", ".ruff_cache"} & {*file.parts}
    }


def test_everything_gets_the_name_in_its_own_form(project: Path) -> None:
    (project / ".git/info/exclude").write_text("__pycache__\n*.egg-info\n")
    for folder in ("src/litcnn/__pycache__", "src/litcnn.egg-info"):
        (project / folder).mkdir()
        (project / folder / "made").touch()
    code, printed = rename(project, "my_project")
    assert code == 0, printed
    assert {path: text for path, text in contents(project).items() if path != "docs/picture.png"} == {
        path: text.encode()
        for path, text in {
            "LICENSE": "Copyright of LitCNN\n",
            "Makefile": ".PHONY: train clean\n\ntrain:\n\tmy_project fit\n\nclean:\n\trm -r .venv\n",
            "README.md": (
                "# MyProject\n\n- `my_project fit`\n- end\n\nThe end.\n\n"
                "Made from LitCNN, a template for image classification under the Apache License 2.0.\n"
            ),
            "pyproject.toml": '[project]\nname = "my_project"\n',
            "requirements.txt": FILES["requirements.txt"],
            "configs/a.yaml": "class_path: my_project.networks.CNN\n",
            "docs/my_project.md": "MyProject reads MY_PROJECT_TRACEBACK.\r\n\r\nIts folder is `scripts/`.\r\n",
            "src/my_project/__init__.py": '"""MyProject."""\n',
            "src/my_project/my_project_net.py": FILES["src/litcnn/litcnn_net.py"].replace("litcnn", "my_project"),
            "tests/test_net.py": 'import my_project\n\nmy_project.mock("my_project.net")\n',
        }.items()
    }
    assert (project / "docs/picture.png").read_bytes() == PICTURE
    assert (project / "CLAIM.md").read_text() == "Copyright of LitCNN\n"  # once, through the link
    assert not (project / "src/litcnn").exists() and not (project / "src/litcnn.egg-info").exists()
    assert printed.startswith("8 files say my_project now, and src/litcnn is src/my_project.\n")


def test_it_can_be_taken_back(project: Path) -> None:
    before = contents(project)
    assert rename(project, "my_litcnn")[0] == 0
    assert (project / "src/my_litcnn").is_dir() and b"\nimport my_litcnn\n" in b"\n" + contents(project)[
        "tests/test_net.py"
    ]
    assert all(line[1] == " " for line in git(project, "status", "--porcelain").splitlines())  # all staged
    git(project, "reset", "--quiet", "--hard")
    assert contents(project) == before

    (project / "src/my_litcnn/__pycache__").mkdir(parents=True)  # as is left where it was imported in between
    code, printed = rename(project, "my_litcnn")
    assert code == 1 and "src/my_litcnn is there already" in printed
    assert contents(project) == before


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("my-project", "letters, digits and single underscores.* Such as my_project"),
        ("MyProject", "lower-case letters.* Such as myproject"),
        ("2cats", "begins with a letter. Such as cats"),
        ("a__b", "single underscores.* Such as a_b"),
        ("größe", "lower-case letters"),
        ("", "is no name for a package.* Such as my_project"),
        ("class", "a word of Python"),
        ("match", "a word of Python"),
        ("list", "a word of Python"),
        ("litcnn", "is its name already"),
        ("json", "a module of Python"),
        ("torch", "a package that this project needs"),
        ("scikit_learn", "a package that this project needs"),
        ("pytest", "a package that this project needs, or one that is installed"),
        ("docs", "a folder of this project"),
        ("src", "a folder of this project"),
        ("runs", "a folder of this project"),
        ("images", r"stands for something else in src/litcnn/litcnn_net\.py"),
        ("predict", r"stands for something else in src/litcnn/litcnn_net\.py"),
        ("litcnn_other", r"stands for something else in src/litcnn/litcnn_net\.py"),
    ],
)
def test_bad_names_change_nothing(project: Path, name: str, reason: str) -> None:
    code, printed = rename(project, name)
    assert code == 1 and re.match(f"error: {name} .*{reason}", printed), printed
    assert not git(project, "status", "--porcelain")


@pytest.mark.parametrize("path", ["README.md", "new.py"])
def test_uncommitted_changes_are_not_buried(project: Path, path: str) -> None:
    (project / path).write_text("# mine")
    code, printed = rename(project, "my_project")
    assert code == 1 and "commit or stash these changes first" in printed and path in printed
    assert (project / path).read_text() == "# mine" and (project / "src/litcnn").is_dir()


def test_without_history_nothing_is_done(project: Path) -> None:
    before = contents(project)
    shutil.rmtree(project / ".git")
    code, printed = rename(project, "my_project", GIT_CEILING_DIRECTORIES=str(project.parent))
    assert code == 1 and "is no git checkout" in printed and "git init && git add --all && git commit" in printed
    git(project, "init", "--quiet")
    code, printed = rename(project, "my_project")
    assert code == 1 and "is not committed: git init" in printed
    assert contents(project) == before


def test_code_that_python_cannot_read_is_named(project: Path) -> None:
    (project / "main.py").write_text("import litcnn\nlitcnn.\n")
    commit(project)
    code, printed = rename(project, "my_project")
    assert code == 1 and printed.startswith("error: main.py:2: invalid syntax")


def test_it_needs_git_but_not_ruff(project: Path, tmp_path: Path) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    python = programs / "python"
    python.symlink_to(os.path.realpath(sys.executable))
    code, printed = rename(project, "my_project", python=python, PATH=str(programs))
    assert code == 1 and "git is needed" in printed
    (programs / "git").symlink_to(str(shutil.which("git")))
    code, printed = rename(project, "my_project", python=python, PATH=str(programs))
    assert code == 0 and "as there is no ruff" in printed


def test_the_code_is_formatted_for_the_new_name(project: Path) -> None:
    pytest.importorskip("ruff")
    line = "from litcnn.a_module_whose_name_is_long import one_function_of_it, another_function\n"
    text = f'"""{" ".join(["litcnn"] * 11)}."""\n'
    assert max(len(line), len(text)) < 90  # ruff's default
    (project / "tests/test_net.py").write_text(text + "\n" + line)
    commit(project)
    code, printed = rename(project, "a_name_that_is_long")
    assert code == 0 and "Formatted by ruff." in printed
    assert contents(project)["tests/test_net.py"].decode() == (
        f"{text.replace('litcnn', 'a_name_that_is_long').rstrip()}  # noqa: E501\n\n"
        "from a_name_that_is_long.a_module_whose_name_is_long import (\n"
        "    another_function,\n    one_function_of_it,\n)\n"
    )


@pytest.mark.slow
def test_this_project_works_under_another_name(tmp_path: Path) -> None:
    clone, new = tmp_path / "clone", "my_project"
    if not (HOUSE / ".git").exists():
        pytest.skip("no git checkout: its files are not known")
    for path in git(HOUSE, "ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0"):
        if (HOUSE / path).is_file():  # and not just deleted
            (clone / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(HOUSE / path, clone / path)
    commit(clone)
    code, printed = rename(clone, new)
    assert code == 0, printed

    paths = git(clone, "ls-files").splitlines()
    texts = {path: (clone / path).read_bytes().decode(errors="replace") for path in paths}
    assert [path for path in paths if "litcnn" in path.lower()] == []
    pictures = [path for path in paths if path.endswith(".png")]
    assert {path for path in paths if "litcnn" in texts[path].lower()} - {*pictures} == {"README.md"}
    assert [line for line in texts["README.md"].splitlines() if "litcnn" in line.lower()] == [
        texts["README.md"].splitlines()[-1]
    ]
    assert [path for path in paths if re.search(r"make rename|scripts/rename", texts[path])] == []

    env = {**os.environ, "PYTHONPATH": str(clone / "src")}

    def run(*command: str) -> str:
        done = subprocess.run(command, cwd=clone, env=env, capture_output=True, text=True, timeout=200)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run("make", "--dry-run", "train", "lint")
    run(sys.executable, "-m", "ruff", "check", ".")
    run(sys.executable, "-m", "ruff", "format", "--check", ".")
    assert str(clone) in run(sys.executable, "-c", f"import {new}; print({new}.__file__)")
    assert run(sys.executable, "main.py", "--version") == f"{new} 0.1.0\n"
    some = ["tests/cli", "tests/test_trust.py", "tests/networks/test_cnn.py", "tests/report/test_pictures.py"]
    run(sys.executable, "-m", "pytest", "-x", "-m", "not slow", *some)
    run(sys.executable, "main.py", "fit", "--config", "configs/digits.yaml", "--trainer.max_epochs", "1")
    assert (clone / "best.ckpt").is_file()
