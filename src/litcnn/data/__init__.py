"""Images in, batches out."""

from litcnn.data.augment import Augment, Draw, RandomCrop, RandomFlip
from litcnn.data.loader import BatchLoader
from litcnn.data.module import ImageData
from litcnn.data.sources import CIFAR10, CIFAR100, Arrays, Digits, ImageFolder, Source, TorchDataset

__all__ = [
    "CIFAR10",
    "CIFAR100",
    "Arrays",
    "Augment",
    "BatchLoader",
    "Digits",
    "Draw",
    "ImageData",
    "ImageFolder",
    "RandomCrop",
    "RandomFlip",
    "Source",
    "TorchDataset",
]
