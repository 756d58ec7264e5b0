"""What a command imports before it answers: nothing that it does not need."""

import subprocess
import sys

from project_for_tests import PACKAGE

SLOW = {"gradio", "IPython", "jinja2", "matplotlib", "onnx", "onnxruntime", "pandas", "sklearn", "wandb"}
RUN = """
import contextlib, sys
{first}
packages = lambda: {{name.partition(".")[0] for name in sys.modules}}
before = packages()
from {package}.__main__ import main
for arguments in {commands}:
    with contextlib.suppress(SystemExit):
        main(arguments)
print("imported:", *(packages() - before))
"""


def imported_by(*commands: list[str], after: str = "") -> set[str]:
    """The packages that a process has imported when these command lines are answered; not those imported before."""
    code = RUN.format(package=PACKAGE, first=after, commands=list(commands))
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    printed, _, names = process.stdout.rpartition("imported: ")
    assert printed or process.stderr  # an answer
    assert PACKAGE in names.split()
    return set(names.split())


def test_what_needs_no_library_imports_none() -> None:
    imported = imported_by(["--help"], ["-h"], ["--version"], ["fti"], [])
    assert not imported & {"torch", "lightning", "numpy", "scipy", *SLOW}


def test_the_parser_of_a_fit_imports_nothing_slow_that_lightning_does_not() -> None:
    # torchmetrics, which is Lightning's, imports matplotlib where it is installed
    before = "import torch, lightning"
    assert not imported_by(["fit", "--help"], ["test", "--model.widht", "3"], after=before) & SLOW
    untracked = ["fit", "--config", "configs/with/no_tracker.yaml", "--model.widht", "3"]
    assert not imported_by(untracked, after=before) & SLOW


def test_a_fit_imports_its_tracker_before_torch() -> None:
    code = f"import atexit, sys\nfrom {PACKAGE}.__main__ import main\natexit.register(lambda: print(*sys.modules))\n"
    command = [sys.executable, "-c", f"{code}main(['fit', '--model.widht', '3'])"]
    names = subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()
    assert names.index("wandb.sdk.launch") < names.index("torch")
