"""Images in, batches out."""

from litcnn.augment import AlternatingFlip, Cutout, RandomCrop, RandomFlip
from litengine.data.augment import Augment, Draw
from litengine.data.loader import BatchLoader
from litcnn.data import ImageData
from litengine.data.sources import Arrays, CIFAR10, CIFAR100, Digits, ImageFolder, Shards, Source, Stream, TorchDataset

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
