"""The imports between the parts of the engine, what one import loads, and the length of each file."""

import ast
import re
import sys
from functools import cache
from pathlib import Path

import pytest
from pages import ROOT
from project_for_tests import PACKAGE

SOURCE = ROOT / "src/litengine"
FILES = sorted(SOURCE.rglob("*.py"))
PROJECT_FILES = sorted((ROOT / "src" / PACKAGE).rglob("*.py"))
ROW = re.compile(r"^\| `(\w+)` \|.*\|([^|]*)\|$", re.MULTILINE)
PAGE = (ROOT / "docs/architecture.md").read_text()
TABLE = {part: set(re.findall(r"\w+", imported)) for part, imported in ROW.findall(PAGE)}
DOOR = {"__init__": set(), "__main__": {"cli"}}  # `python -m litengine`
# Packages that a command which does not need them should not pay for
SLOW = {
    *("IPython", "boto3", "gradio", "jinja2", "litdata", "matplotlib", "onnx", "onnxruntime", "optuna", "pandas"),
    *("pyarrow", "scipy", "sklearn", "timm", "wandb"),
}
# These modules do nothing else, so they import them at once; others import these modules inside functions
SLOW_FILES = {
    *("demo/page.py", "demo/server.py", "report/page.py", "report/pictures.py", "report/tracker.py"),
    *(
        "study/search.py",
        "study/search_report.py",
        "study/space.py",
    ),
}
LARGE = {  # files of more than 350 lines, each with its reason
    "inference/safe_config.py": "one rule, with the kinds of positions that it knows",
    "network.py": "one builder, with what torchvision and timm need",
    "loggers/wandb.py": "one logger: what W&B does wrong has to be caught around each of its calls",
}
# the imports that each part of data may have
DATA = {"augment": set(), "sources": {"splits"}, "splits": set(), "loader": {"augment", "sources"}}


@cache
def imports(file: Path) -> list[tuple[str, bool]]:
    """The names that a file imports, and whether at once. Imports for type checkers only are left out."""
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
    package, found = file.relative_to(ROOT / "src").parts[:-1], []
    for node in set(ast.walk(tree)) - typing_only:
        if isinstance(node, ast.Import):
            found += [(alias.name, node not in inside) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*above, *([node.module] if node.module else [])])
            # a module of a package, or a name in a module
            found += [(f"{module}.{alias.name}", node not in inside) for alias in node.names]
    return found


def parts_imported(folder: Path, part: str) -> set[str]:
    """The modules and packages of a folder that one of them imports."""
    files = [*(folder / part).rglob("*.py"), *folder.glob(f"{part}.py")]
    package = f"{'.'.join(folder.relative_to(ROOT / 'src').parts)}."
    found = {name.removeprefix(package) for file in files for name, _ in imports(file) if name.startswith(package)}
    return {name.partition(".")[0] for name in found} - {part, "__version__"}


def test_imports_are_those_of_the_table() -> None:
    parts = {path.stem for path in SOURCE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert parts == {*DOOR, *TABLE}
    imported = {part: parts_imported(SOURCE, part) for part in parts}
    expected = {part: imported[part] if known == {"all"} else known for part, known in {**TABLE, **DOOR}.items()}
    assert imported == expected
    assert [part for part, known in TABLE.items() if known == {"all"}] == ["cli"]


def test_a_part_imports_only_parts_above_it() -> None:
    order = list(TABLE)
    assert {
        (part, known)
        for part, all_known in TABLE.items()
        for known in all_known - {"all"}
        if order.index(known) > order.index(part)
    } == set()
    assert TABLE["data"] | TABLE["optim"] | TABLE["report"] <= {"files"}


def test_the_engine_never_imports_the_project() -> None:
    found = {str(file): name for file in FILES for name, _ in imports(file) if name.split(".")[0] == PACKAGE}
    assert found == {}
    assert any(name.startswith("litengine.") for file in PROJECT_FILES for name, _ in imports(file))


@pytest.mark.parametrize("part", DATA)
def test_modules_of_the_data_import_each_other_in_one_direction(part: str) -> None:
    assert parts_imported(SOURCE / "data", part) & set(DATA) == DATA[part]


def test_slow_packages_are_imported_where_they_are_used() -> None:
    every = [*FILES, *PROJECT_FILES]
    at_once = {file: {name for name, top in imports(file) if top} for file in every}
    slow = {file for file in every if {name.partition(".")[0] for name in at_once[file]} & SLOW}
    grown = True
    while grown:  # who imports a slow module at once is slow too
        modules = [".".join(file.relative_to(ROOT / "src").with_suffix("").parts) for file in slow]
        reached = {
            file for file in every if any(f"{name}.".startswith(f"{m}.") for name in at_once[file] for m in modules)
        }
        grown, slow = not reached <= slow, slow | reached
    assert {str(file.relative_to(SOURCE)) for file in slow} == SLOW_FILES
    assert not SLOW & set(sys.stdlib_module_names)


def test_no_file_is_long_without_a_reason() -> None:
    lines = {str(file.relative_to(SOURCE)): len(file.read_text().splitlines()) for file in FILES}
    assert {file for file, number in lines.items() if number > 350} == set(LARGE)
