"""Results of a classifier that is right about half of the time, for the tests of the report."""

import torch

from litengine.report import Results

ODD = ['<b>a</b> & "b"', "$x_1$", "猫 кошка 😀", "a" * 300, "two\nlines\x07\udcff"]  # names of classes


def predicted(classes: int, images: int = 600) -> tuple[torch.Tensor, torch.Tensor]:
    """Probabilities (N, classes) and labels (N,): class 1 is never predicted, and of more than two classes the last has
    no images."""
    random = torch.Generator().manual_seed(classes)
    labels = torch.randint(0, classes - (classes > 2), (images,), generator=random)
    logits = torch.randn(images, classes, generator=random)
    logits[torch.arange(images), labels] += 2
    logits[:, 1] = -20
    return logits.softmax(1), labels


def results(classes: int, images: int = 600) -> Results:
    return Results.of(*predicted(classes, images), [f"class {label}" for label in range(classes)])


def named(names: list[str], images: int = 300) -> Results:
    """The same for classes of these names."""
    return Results.of(*predicted(len(names), images), names)
