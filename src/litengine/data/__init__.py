"""Images in, batches out."""

from .augment import Augment, Draw
from .loader import BatchLoader
from .sources.base import Arrays, Source, Split
from .sources.cifar import CIFAR10, CIFAR100
from .sources.digits import Digits
from .sources.folder import ImageFolder
from .sources.shards import Shards
from .sources.stream import Stream
from .sources.table import CSV
from .sources.torch_dataset import TorchDataset
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
