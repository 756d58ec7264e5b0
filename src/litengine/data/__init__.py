"""Images in, batches out."""

from .augment import Augment, Draw
from .loader import BatchLoader
from .sources import CIFAR10, CIFAR100, CSV, Arrays, Digits, ImageFolder, Shards, Source, Split, Stream, TorchDataset
from .splits import stratified_fold, stratified_split

__all__ = [
    "CIFAR10",
    "CIFAR100",
    "CSV",
    "Arrays",
    "Augment",
    "BatchLoader",
    "Digits",
    "Draw",
    "ImageFolder",
    "Shards",
    "Source",
    "Split",
    "Stream",
    "TorchDataset",
    "stratified_fold",
    "stratified_split",
]
