"""Metrics that leave out classes without images."""

from typing import Any, cast

import torch
from torchmetrics.classification import MulticlassAccuracy, MulticlassAUROC, MulticlassF1Score
from torchmetrics.utilities import dim_zero_cat


class _OverClassesWithImages:
    """The mean over the classes that have images, of a metric with a value for each class; mixed into that metric.

    torchmetrics counts the recall and the AUROC of a class without images as 0.
    """

    def compute(self) -> Any:
        values, own = super().compute(), cast("Any", self)  # type: ignore[misc]
        present: Any = dim_zero_cat(own.target) if hasattr(own, "target") else torch.nonzero(own.tp + own.fn)
        return values[present.unique()].mean()


class MeanRecall(_OverClassesWithImages, MulticlassAccuracy):
    """The mean recall of the classes that have images."""


class MeanF1(_OverClassesWithImages, MulticlassF1Score):
    """The mean F1 of the classes that have images."""


class MeanAUROC(_OverClassesWithImages, MulticlassAUROC):
    """The mean area under the ROC curve of each class that has images against the others."""
