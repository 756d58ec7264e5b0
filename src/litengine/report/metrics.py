"""The numbers of a report."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

TOP = 5
GALLERY = 24  # mistakes that are shown: whole rows of 3 on a phone and of 8 on a screen
BINS = 15  # of confidence, as in Guo et al. 2017, "On Calibration of Modern Neural Networks"


class ClassScores(NamedTuple):
    """Scores of one class, 0 to 1. All scores of a class without images, and the precision of one that was never
    predicted, are NaN."""

    label: int
    name: str
    precision: float
    recall: float
    f1: float
    support: int  # images of this class


class Confusion(NamedTuple):
    """How many images of class `label` were classified as `prediction`."""

    label: int
    prediction: int
    images: int


def ranked(probabilities: Tensor) -> tuple[Tensor, Tensor]:
    """The most probable classes of each image, at most five, best first; on a tie the lower label.

    Five are all that a report needs: for a thousand classes that is less than a hundredth of the memory.

    Args:
        probabilities: float (N, classes).

    Returns:
        Classes int64 (N, k) and their probabilities (N, k); NaN, of a network that has diverged, counts as 0.
    """
    values, classes = probabilities.nan_to_num(0.0).sort(dim=1, descending=True, stable=True)
    return classes[:, :TOP], values[:, :TOP]


@dataclass(frozen=True)
class Results:
    """Predictions of a classifier for N images, and the metrics computed from them.

    Attributes:
        labels: int64 (N,), the true classes.
        ranking: int64 (N, k), the most probable classes, best first; see `ranked`.
        probabilities: float (N, k), theirs.
        class_names: by label.
    """

    labels: Tensor
    ranking: Tensor
    probabilities: Tensor
    class_names: Sequence[str]

    @classmethod
    def of(cls, probabilities: Tensor, labels: Tensor, class_names: Sequence[str]) -> "Results":
        """From probabilities (N, classes) and labels (N,)."""
        return cls(labels, *ranked(probabilities), class_names)

    @property
    def predictions(self) -> Tensor:
        """int64 (N,), the most probable class."""
        return self.ranking[:, 0]

    @property
    def confidences(self) -> Tensor:
        """float (N,), its probability."""
        return self.probabilities[:, 0]

    @cached_property
    def metrics(self) -> dict[str, float]:
        """Each 0 to 1: `acc`; `acc_top5` if there are more than five classes; `ece`, the expected calibration error
        (the mean distance of confidence and accuracy, over 15 bins of confidence); `f1`, the mean over the classes
        that have images."""
        metrics = {"acc": (self.predictions == self.labels).double().mean()}
        if len(self.class_names) > TOP:
            metrics["acc_top5"] = (self.ranking == self.labels[:, None]).any(1).double().mean()
        images, confidence, accuracy = self.bins
        metrics["ece"] = (images * (accuracy - confidence).abs()).nansum() / len(self.labels)
        metrics["f1"] = torch.tensor([scores.f1 for scores in self.per_class]).nanmean()
        return {name: float(value) for name, value in metrics.items()}

    @cached_property
    def per_class(self) -> list[ClassScores]:
        """The scores of every class, by label."""
        support, predicted = self.confusion.sum(1), self.confusion.sum(0)
        right = self.confusion.diag().double().where(support > 0, torch.nan)
        scores = [right / predicted, right / support, 2 * right / (support + predicted)]  # 0 / 0 is NaN
        rows = zip(self.class_names, *(score.tolist() for score in scores), support.tolist(), strict=True)
        return [ClassScores(label, *row) for label, row in enumerate(rows)]

    def worst_classes(self, count: int | None = None) -> list[ClassScores]:
        """Classes by F1, the lowest first; those without images come last."""
        order = sorted(self.per_class, key=lambda scores: (scores.support == 0, scores.f1, scores.label))
        return order[:count]

    @cached_property
    def confusion(self) -> Tensor:
        """int64 (classes, classes): images of the row's class that were classified as the column's."""
        classes = len(self.class_names)
        return (self.labels * classes + self.predictions).bincount(minlength=classes**2).view(classes, classes)

    def most_confused(self, count: int) -> list[Confusion]:
        """The most frequent mistakes, at most `count` of them."""
        mistakes = self.confusion.clone().fill_diagonal_(0).flatten()
        counts, places = mistakes.sort(descending=True, stable=True)
        found = zip(places[:count].tolist(), counts[:count].tolist(), strict=True)
        classes = len(self.class_names)
        return [Confusion(place // classes, place % classes, images) for place, images in found if images]

    def confident_mistakes(self, count: int = GALLERY) -> list[int]:
        """Places (0 to N - 1) of the wrong predictions, those with the highest confidence first."""
        wrong = torch.where(self.predictions != self.labels)[0]
        order = self.confidences[wrong].argsort(descending=True, stable=True)
        return wrong[order[:count]].tolist()

    @cached_property
    def bins(self) -> Tensor:
        """float64 (3, 15): number, mean confidence and accuracy of the predictions in each of 15 bins of confidence, of
        equal width from 0 to 1: those that `ece` is the mean of. Of an empty bin the last two are NaN."""
        confidences = self.confidences.double()
        between = torch.linspace(0, 1, BINS + 1, dtype=torch.float64)[1:-1]  # the edges of two bins
        places = torch.bucketize(confidences, between, right=True)
        count = places.bincount(minlength=BINS)
        right = (self.predictions == self.labels).double()
        confidence, accuracy = (places.bincount(values, BINS) / count for values in (confidences, right))
        return torch.stack([count.double(), confidence, accuracy])
