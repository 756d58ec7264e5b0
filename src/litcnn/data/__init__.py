"""Images in, batches out."""

from litcnn.data.augment import AlternatingFlip, Augment, Cutout, Draw, RandomCrop, RandomFlip
from litcnn.data.loader import BatchLoader
from litcnn.data.module import ImageData
from litcnn.data.sources import CIFAR10, CIFAR100, Arrays, Digits, ImageFolder, Shards, Source, Stream, TorchDataset

__all__ = [
    "CIFAR10",
    "CIFAR100",
    "AlternatingFlip",
    "Arrays",
    "Augment",
    "BatchLoader",
    "Cutout",
    "Digits",
    "Draw",
    "ImageData",
    "ImageFolder",
    "RandomCrop",
    "RandomFlip",
    "Shards",
    "Source",
    "Stream",
    "TorchDataset",
]
