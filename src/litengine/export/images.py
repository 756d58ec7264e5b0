"""Real images, on which an export is compared with its checkpoint."""

from typing import Any

import numpy as np
import torch
from jsonargparse import ArgumentParser
from torch import Tensor

from litengine import project
from litengine.data.sources.find import find_images
from litengine.inference.predictor import Predictor

COUNT = 200


def real_images(predictor: Predictor, config: dict[str, Any], words: list[str]) -> tuple[Tensor, str]:
    """At most 200 images, and what they are, in words.

    Args:
        predictor: whose images are wanted.
        config: of its checkpoint.
        words: image files, folders and globs; none for those that the checkpoint was validated on, or where there
            were none, trained on. The test split is left alone.

    Returns:
        uint8 (N, 3, image_size, image_size), spread evenly over all there are.

    Raises:
        ValueError, OSError: for a word that means no image, an image that cannot be read, or data that is not there.
    """
    if words:
        paths = find_images(words)
        pixels = [predictor.prepare(paths[index]) for index in _spread(len(paths))]
        return torch.from_numpy(np.stack(pixels)), f"{len(pixels)} images of yours"
    try:
        data = _data(config["data"])
        data.prepare_data()
        split = "training" if data.subset("val") is None else "validation"
        part = data.subset("val") or data.subset("train")
        assert part is not None
        images = part.arrays.images[torch.from_numpy(part.indices[_spread(len(part.indices))])]
    except Exception as error:  # a dataset of the user's own may raise anything
        reason = " ".join(str(error).split())
        raise ValueError(
            f"the checkpoint's own images, which the export is to be compared on, are not to be had: {reason} "
            "Give others: --images FILE…"
        ) from error
    if images.shape[1:] != predictor.classifier.image_shape:
        raise ValueError(
            f"the checkpoint's data has images of shape {list(images.shape[1:])} now, and the network was trained on "
            f"{list(predictor.classifier.image_shape)}. Give others to compare the export on: --images FILE…"
        )
    return images, f"{len(images)} {split} images of {type(data.source).__name__}"


def _data(config: dict[str, Any]) -> Any:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(project.data_class(), "data")
    data: Any = parser.instantiate(parser.parse_object({"data": config})).data
    return data


def _spread(count: int) -> Any:
    """int64 indices, evenly over `count` things: files and folders are often sorted by class."""
    return np.linspace(0, count - 1, min(count, COUNT)).round().astype(np.int64)
