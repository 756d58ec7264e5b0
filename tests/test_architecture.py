"""What may be imported at once, how long a file may be, and that every file and verb has its place.

Who may know whom: tests/docs/test_architecture.py, which reads the table of that page.
"""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from litengine.cli import VERBS

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src/litcnn"
FILES = sorted(SOURCE.rglob("*.py"))
# Packages that a command which does not need them should not pay for
SLOW = {
    *("IPython", "boto3", "gradio", "jinja2", "litdata", "matplotlib", "onnx", "onnxruntime", "optuna", "pandas"),
    *("pyarrow", "scipy", "sklearn", "timm", "wandb"),
}
# Who imports them at once, for they do nothing else; they are imported inside functions themselves
DRAWING = {"report/page.py", "report/pictures.py", "report/tracker.py", "study/pictures.py"}
# Larger than 350 lines, each with its reason
LARGE = {"classifier.py": "one LightningModule: its hooks share the sums of the epoch"}
# Within the room of the data
DATA = {
    "augment": set(),
    "sources": set(),
    "loader": {"augment", "sources"},
    "module": {"augment", "loader", "sources"},
}


def imports(file: Path) -> Iterator[tuple[str, bool]]:
    """The modules that a file imports, and whether at once; what is for type checkers only is left out."""
    tree = ast.parse(file.read_text())
    typing_only = {
        node
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test).endswith("TYPE_CHECKING")
        for node in ast.walk(block)
    }
    inside = {
        node
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for node in ast.walk(function)
    }
    package = ["litcnn", *file.relative_to(SOURCE).parts[:-1]] if file.is_relative_to(SOURCE) else []
    for node in set(ast.walk(tree)) - typing_only:
        if isinstance(node, ast.Import):
            yield from ((alias.name, node not in inside) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:  # a module of a package, or a name in one
                yield f"{module}.{alias.name}", node not in inside


@pytest.mark.parametrize("part", DATA)
def test_parts_of_the_data_know_each_other_in_one_direction(part: str) -> None:
    files = [
        f for f in (SOURCE / "data").rglob("*.py") if f.relative_to(SOURCE / "data").parts[0] in (part, f"{part}.py")
    ]
    names = {name for file in files for name, _ in imports(file) if name.startswith("litengine.data.")}
    assert files and {name.split(".")[2] for name in names} & (set(DATA) - {part}) == DATA[part]


def test_what_is_slow_is_imported_where_it_is_used() -> None:
    at_once = {file: {name for name, top in imports(file) if top} for file in FILES}
    slow = {file for file in FILES if {name.partition(".")[0] for name in at_once[file]} & SLOW}
    grown = True
    while grown:  # who imports them at once is as slow
        modules = [".".join(["litcnn", *file.relative_to(SOURCE).with_suffix("").parts]) for file in slow]
        reached = {
            file for file in FILES if any(f"{name}.".startswith(f"{m}.") for name in at_once[file] for m in modules)
        }
        grown, slow = not reached <= slow, slow | reached
    assert {str(file.relative_to(SOURCE)) for file in slow} == DRAWING


def test_an_import_in_a_function_is_not_at_once(tmp_path: Path) -> None:
    file = tmp_path / "module.py"
    file.write_text(
        "from typing import TYPE_CHECKING\nimport wandb\nfrom litcnn import run\nif TYPE_CHECKING:\n    import onnx\n"
        "def draw():\n    import matplotlib.pyplot\n"
    )
    found = dict(imports(file))
    assert found == {
        "typing.TYPE_CHECKING": True,
        "wandb": True,
        "litengine.training.run_directory": True,
        "matplotlib.pyplot": False,
    }


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(SOURCE)))
def test_no_file_is_long_without_a_reason(file: Path) -> None:
    lines = len(file.read_text().splitlines())
    assert lines <= 350 or file.name in LARGE
    assert lines > 350 or file.name not in LARGE  # or the reason goes


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_is_tested_as_a_user_runs_it_and_explained(verb: str) -> None:
    tests = "\n".join(file.read_text() for file in (ROOT / "tests/e2e").glob("*.py"))
    assert re.search(rf"[\"'\[ ]{verb}[\"', ]", tests)
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    assert any(re.search(rf"(main\.py|litcnn) {verb}\b|`{verb}`", page.read_text()) for page in pages)


def test_every_file_of_the_package_is_tested_in_its_room() -> None:
    tests = {file.relative_to(ROOT / "tests") for file in (ROOT / "tests").rglob("test_*.py")}
    for file in FILES:
        path = file.relative_to(SOURCE)
        near = {path.with_name(f"test_{path.name}"), Path(f"test_{path.parts[0].removesuffix('.py')}.py")}
        folder = {test for test in tests if test.parts[0] == path.parts[0]}
        assert near & tests or folder or path.name in ("__init__.py", "__main__.py"), path


def test_the_tables_above_are_not_of_another_time() -> None:
    assert {path.stem for path in (SOURCE / "data").iterdir() if path.suffix in ("", ".py")} >= set(DATA)
    assert {name for name in LARGE if not (SOURCE / name).exists()} == set()
    assert not SLOW & set(sys.stdlib_module_names)
