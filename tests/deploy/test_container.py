"""The Dockerfile, .dockerignore and deploy/container.sh, as far as they can be checked without building the image:
`deploy/container.sh build` and `deploy/container.sh check` do that, in minutes and with 30 GB of disk."""

import json
import os
import re
import shutil
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest

HOUSE = Path(__file__).parents[2]
SCRIPT = "deploy/container.sh"


def instructions() -> list[tuple[str, str]]:
    """Of the Dockerfile, each as its word and the rest."""
    text = re.sub(r"^#.*\n", "", (HOUSE / "Dockerfile").read_text(), flags=re.M).replace("\\\n", " ")
    lines = [line.strip().partition(" ") for line in text.splitlines() if line.strip()]
    return [(word, " ".join(rest.split())) for word, _, rest in lines]


def given(word: str) -> list[str]:
    return [rest for found, rest in instructions() if found == word]


def copied() -> list[tuple[str, str]]:
    """What comes from this folder, and where it goes to."""
    words = [rest.split() for rest in given("COPY") if not rest.startswith("--from=")]
    return [(source, target) for *sources, target in words for source in sources]


def ignored(path: str) -> bool:
    """Whether .dockerignore keeps the path out: the last line that fits it, or a folder that it is in, decides."""
    parts = path.split("/")
    folders = ["/".join(parts[:end]) for end in range(1, len(parts) + 1)]
    out = False
    for line in (HOUSE / ".dockerignore").read_text().splitlines():
        pattern = line.removeprefix("!")
        if pattern.startswith("**/"):
            fits = any(fnmatch(part, pattern.removeprefix("**/")) for part in parts)
        else:
            fits = any(fnmatch(folder, pattern) for folder in folders)
        if fits:
            out = not line.startswith("!")
    return out


def test_nobody_is_root_in_it_and_nothing_secret_is_in_it() -> None:
    words = [word for word, _ in instructions()]
    # numbers: of a name Kubernetes cannot tell that it is not root's
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", given("USER")[-1])
    assert words.index("USER") > max(i for i, word in enumerate(words) if word in ("FROM", "RUN", "COPY"))
    assert "ADD" not in words
    text = " ".join(given("ENV") + given("ARG") + given("RUN")).replace("--mount=type=secret", "")  # stays outside
    assert not re.search("KEY|TOKEN|PASSWORD|SECRET|://", text, re.I)


def test_base_and_packages_are_pinned() -> None:
    assert given("FROM") == ["${BASE} AS packages", "${BASE}"]
    assert re.fullmatch(r"BASE=python:3\.\d+-slim", given("ARG")[0])
    assert ("requirements.txt", "/tmp/") in copied()
    assert any("pip install" in command and "-r /tmp/requirements.txt" in command for command in given("RUN"))
    requirements = re.sub(r"#.*", "", (HOUSE / "requirements.txt").read_text()).split("\n")
    assert [line for line in requirements if line.strip() and not re.match(r"[\w.-]+==[\w.+-]+( ;.*)?$", line)] == []
    assert any(line.startswith("torch==") for line in requirements)


def test_only_what_is_copied_reaches_the_build() -> None:
    for source, _ in copied():
        assert (HOUSE / source).exists() and not ignored(source), source
    assert not ignored("src/litcnn/report/page.html")
    out = [".git/config", ".venv/bin/python", "data/cifar", "runs/a/b/state.json", "wandb/x", "best.ckpt", ".env"]
    out += ["tests/conftest.py", "src/litcnn/__pycache__/a.pyc", "src/litcnn.egg-info/PKG-INFO"]
    assert [path for path in out if not ignored(path)] == []


def test_what_is_copied_is_a_program(tmp_path: Path) -> None:
    for source, target in copied():
        if target != "/tmp/":
            new = tmp_path / (source if target == "./" else target)
            (shutil.copytree if (HOUSE / source).is_dir() else shutil.copy)(HOUSE / source, new)
    entry, default = (json.loads(given(word)[0]) for word in ("ENTRYPOINT", "CMD"))
    assert (
        entry == ["python", "/app/main.py"] and default[:2] == ["fit", "--config"] and (tmp_path / default[2]).is_file()
    )
    assert {"PYTHONPATH=/app/src"} <= {*given("ENV")[0].split()} and given("WORKDIR") == ["/app"]
    assert json.loads(given("VOLUME")[0]) == ["/app/data", "/app/runs"]
    command = [sys.executable, str(tmp_path / "main.py"), "--version"]
    printed = subprocess.run(
        command, env={"PYTHONPATH": str(tmp_path / "src")}, check=True, capture_output=True, text=True
    )
    assert printed.stdout.startswith("litcnn ")


@pytest.fixture
def docker(tmp_path: Path) -> Path:
    """A folder with the script and a `docker` that notes down how it is called."""
    (tmp_path / "deploy").mkdir()
    shutil.copy(HOUSE / SCRIPT, tmp_path / "deploy")
    (tmp_path / "bin").mkdir()
    for name in ("bash", "dirname", "id", "mkdir", "sed"):
        (tmp_path / "bin" / name).symlink_to(str(shutil.which(name)))
    program = tmp_path / "bin/docker"
    program.write_text(f'#!{tmp_path}/bin/bash\n[ "$1" = info ] || echo "$@" >>{tmp_path}/calls\n')
    program.chmod(0o755)
    return tmp_path


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    env = {"PATH": f"{folder}/bin", "HOME": str(folder)}
    return subprocess.run(["bash", str(folder / SCRIPT), *arguments], env=env, capture_output=True, text=True)


def test_docker_is_used_where_it_answers(docker: Path) -> None:
    assert run(docker, "build", "--pull").returncode == 0
    assert run(docker, "run", "test", "--ckpt_path", "a b.ckpt").returncode == 0
    assert run(docker, "clean").returncode == 0
    mounts = f"--volume {docker}/data:/app/data --volume {docker}/runs:/app/runs"
    assert (docker / "calls").read_text().splitlines() == [
        "build --tag litcnn --pull .",
        f"run --rm --network bridge --user {os.getuid()}:{os.getgid()} {mounts} --env WANDB_API_KEY litcnn "
        "test --ckpt_path a b.ckpt",
        "image rm litcnn",
    ]
    assert (docker / "data").is_dir() and (docker / "runs").is_dir()  # or Docker makes them, for root alone


def test_the_script_says_what_it_can_do(docker: Path) -> None:
    for arguments in ([], ["biuld"]):
        process = run(docker, *arguments)
        assert process.returncode == 2
        assert re.findall(r"^deploy/container.sh (\w+) ", process.stderr, re.M) == ["build", "run", "check", "clean"]
    assert not (docker / "calls").exists()
