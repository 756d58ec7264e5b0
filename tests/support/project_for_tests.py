"""The project that the engine is tested with: the package beside `litengine`, by whatever name it has.

Tests of the engine take the project's names from here, so that a rename of the project leaves them as they are.
"""

from importlib import import_module
from pathlib import Path

_SOURCE = Path(__file__).parents[2] / "src"
(PACKAGE,) = {path.parent.name for path in _SOURCE.glob("*/__init__.py")} - {"litengine"}

_project, _augment, _data, _model, _networks, _main = (
    import_module(f"{PACKAGE}{part}") for part in ("", ".augment", ".data", ".model", ".networks", ".__main__")
)
MODEL, DATA = f"{PACKAGE}.model.ImageClassifier", f"{PACKAGE}.data.ImageData"
VERSION, load, main = _project.__version__, _project.load, _main.main
AlternatingFlip, Cutout = _augment.AlternatingFlip, _augment.Cutout
RandomCrop, RandomFlip = _augment.RandomCrop, _augment.RandomFlip
ImageClassifier, ImageData = _model.ImageClassifier, _data.ImageData
CNN, ResNet, WhitenedCNN = _networks.CNN, _networks.ResNet, _networks.WhitenedCNN
