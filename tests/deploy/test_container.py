"""The Dockerfile and .dockerignore, as far as they can be checked without building the image.

`deploy/container.sh build` and `deploy/container.sh check` build it and train in it, in minutes and with 30 GB of disk.
"""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def given(word: str) -> list[str]:
    """The arguments of each instruction of this name."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.M).replace("\\\n", " ")
    return [" ".join(line.split()[1:]) for line in text.splitlines() if line.partition(" ")[0] == word]


def copied() -> list[tuple[str, str]]:
    """What comes from this folder, and its target."""
    words = [rest.split() for rest in given("COPY") if not rest.startswith("--from=")]
    return [(source, target) for *sources, target in words for source in sources]


def test_what_is_copied_is_a_program(tmp_path: Path) -> None:
    for source, target in copied():
        if target != "/tmp/":
            new = tmp_path / (source if target == "./" else target)
            (shutil.copytree if (ROOT / source).is_dir() else shutil.copy)(ROOT / source, new)
    entry, default = (json.loads(given(word)[0]) for word in ("ENTRYPOINT", "CMD"))
    assert entry == ["python", "/app/main.py"] and (tmp_path / default[2]).is_file()
    command, env = [sys.executable, str(tmp_path / "main.py"), "--version"], {"PYTHONPATH": str(tmp_path / "src")}
    assert subprocess.run(command, env=env, check=True, capture_output=True, text=True).stdout.startswith("litcnn ")
