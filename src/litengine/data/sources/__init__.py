"""Where images come from: one small class a file, chosen with `--data.source <name>`."""

from .base import Arrays, Source, Split
from .cifar import CIFAR10, CIFAR100
from .digits import Digits
from .folder import ImageFolder
from .shards import Shards
from .stream import Stream
from .table import CSV
from .torch_dataset import TorchDataset

__all__ = [
    "CIFAR10",
    "CIFAR100",
    "CSV",
    "Arrays",
    "Digits",
    "ImageFolder",
    "Shards",
    "Source",
    "Split",
    "Stream",
    "TorchDataset",
]
