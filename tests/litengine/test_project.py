import sys
from pathlib import Path

import pytest

from litengine import project

CONFIG = {
    "network": {"class_path": "old.networks.CNN", "init_args": {"name": "old", "path": "old.png/x"}},
    "augment": ["old.augment.Flip", "older.augment.Crop", "very_old.Crop", "torch.old.Crop", "an old.one", 3],
}
EXPECTED = {
    "network": {"class_path": "new.networks.CNN", "init_args": {"name": "old", "path": "old.png/x"}},
    "augment": ["new.augment.Flip", "new.augment.Crop", "very_old.Crop", "torch.old.Crop", "an old.one", 3],
}


@pytest.fixture
def new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A package with two former names."""
    (tmp_path / "new").mkdir()
    (tmp_path / "new/__init__.py").write_text(
        'FORMER_NAMES = ("old", "older")\n__version__ = "2.1"\nclass Model: ...\n'
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(project, "_paths", ("new.Model", "new.Data"))
    monkeypatch.delitem(sys.modules, "new", raising=False)
    return "new"


def test_class_paths_of_former_names_get_the_present_one(new: str) -> None:
    assert project.former_names(new) == ("old", "older") and project.former_names("no_such_package") == ()
    assert project.renamed(CONFIG, [new]) == EXPECTED
    assert project.renamed(EXPECTED, [new, "torch"]) == EXPECTED
    assert project.renamed(CONFIG, ["torch"]) == CONFIG


def test_the_project_is_known_by_its_import_paths(new: str) -> None:
    assert (project.package(), project.version()) == (new, "2.1")
    assert project.model_class().__name__ == "Model"
    assert project.command() == [sys.executable, "-m", "litengine", "new.Model", "new.Data"]
