"""Who may know whom: the table on docs/architecture.md, and the imports as they are."""

import ast
import re
from pathlib import Path

from pages import ROOT

SOURCE = ROOT / "src/litcnn"
ROW = re.compile(r"^\| `(\w+)` \|.*\|([^|]*)\|$", re.MULTILINE)
TABLE = {
    room: set(re.findall(r"\w+", knows)) for room, knows in ROW.findall((ROOT / "docs/architecture.md").read_text())
}
DOOR = {"__init__": {"inference"}, "__main__": {"cli"}}  # `litcnn.load` and `python -m litcnn`


def imported_rooms(path: Path) -> set[str]:
    """The rooms that a file imports, at its top or inside functions."""
    package = ["litcnn", *path.relative_to(SOURCE).parts[:-1]]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) + 1 - node.level] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            modules = [f"{module}.{alias.name}" for alias in node.names] if module == "litcnn" else [module]
        else:
            continue
        found |= {module.split(".")[1] for module in modules if module.startswith("litcnn.")}
    return found


def imports_of(room: str) -> set[str]:
    place = SOURCE / room
    files = list(place.rglob("*.py")) if place.is_dir() else [place.with_suffix(".py")]
    return set().union(*map(imported_rooms, files)) - {room, "__version__"}


def test_every_room_stands_in_the_table() -> None:
    rooms = {path.stem for path in SOURCE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert rooms - set(DOOR) == set(TABLE)


def test_a_room_knows_those_of_its_row_and_no_others() -> None:
    every = {**TABLE, **DOOR}
    differences = {room: imports_of(room) ^ knows for room, knows in every.items() if knows != {"all"}}
    assert {room: difference for room, difference in differences.items() if difference} == {}
    assert [room for room, knows in TABLE.items() if knows == {"all"}] == ["cli"]


def test_a_room_stands_below_all_that_it_knows() -> None:
    order = list(TABLE)
    wrong = {
        (room, known)
        for room, knows in TABLE.items()
        for known in knows - {"all"}
        if order.index(known) > order.index(room)
    }
    assert wrong == set()


def test_relative_and_late_imports_are_seen(tmp_path: Path) -> None:
    assert imported_rooms(SOURCE / "__init__.py") == {"inference"}
    assert "classifier" not in imported_rooms(SOURCE / "data/sources/folder.py")
    assert "data" in imported_rooms(SOURCE / "data/module.py") and "data" in imported_rooms(SOURCE / "predict.py")
