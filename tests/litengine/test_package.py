"""The engine is a package by itself: src/litengine/pyproject.toml."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from pages import ROOT

import litengine


@pytest.mark.slow
def test_it_is_built_without_the_project(tmp_path: Path) -> None:
    pytest.importorskip("setuptools")
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=ignored)  # a build leaves files beside the source
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-build-isolation", "--no-deps", "--no-index"]
    subprocess.run([*command, "--wheel-dir", "built", "src/litengine"], cwd=tmp_path, check=True)
    (wheel,) = (tmp_path / "built").iterdir()
    assert wheel.name.startswith(f"litengine-{litengine.__version__}-")
    files = {path for path in zipfile.ZipFile(wheel).namelist() if not path.startswith("litengine-")}
    source = [path for kind in ("*.py", "*.html") for path in (ROOT / "src/litengine").rglob(kind)]
    assert files == {str(path.relative_to(ROOT / "src")) for path in source}
