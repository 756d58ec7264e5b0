"""Seeded, stratified splits of a training set."""

from collections.abc import Sequence

import numpy as np


def stratified_split(labels: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Holds out `fraction` of every class.

    Returns: two arrays of indices, int64, ascending: those that stay, and those held out.

    Raises:
        ValueError: if a class has too few images for both sides.
    """
    from sklearn.model_selection import train_test_split

    indices = np.arange(len(labels))
    try:
        kept, held_out = train_test_split(indices, test_size=fraction, stratify=labels, random_state=seed)
    except ValueError as error:
        raise ValueError(
            f"data.val_fraction {fraction} of {len(labels)} training images cannot be held out class by class: {error}"
        ) from error
    return np.sort(kept), np.sort(held_out)


def stratified_fold(
    labels: np.ndarray, class_names: Sequence[str], folds: int, fold: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Cuts the images into `folds` parts, every class evenly, and holds out part `fold`.

    Returns: two arrays of indices, int64, ascending: those that stay, and those held out.

    Raises:
        ValueError: if a class has fewer images than there are folds.
    """
    from sklearn.model_selection import StratifiedKFold

    present, counts = np.unique(labels, return_counts=True)
    if counts.min() < folds:
        rarest = class_names[present[counts.argmin()]]
        most = f"choose {counts.min()} folds or fewer" if counts.min() > 1 else "no number of folds is possible"
        raise ValueError(
            f"data.folds is {folds}, but there are only {counts.min()} training images of {rarest!r}, and every fold "
            f"needs one: {most}"
        )
    parts = StratifiedKFold(folds, shuffle=True, random_state=seed).split(labels, labels)
    kept, held_out = next(part for index, part in enumerate(parts) if index == fold)
    return kept, held_out


def evenly_mixed(labels: np.ndarray) -> np.ndarray:
    """An order, int64 (n,), in which every beginning holds the classes in about the shares that they have of all."""
    place = np.empty(len(labels))
    for label in np.unique(labels):
        own = np.flatnonzero(labels == label)
        place[own] = (np.arange(len(own)) + 0.5) / len(own)
    return np.argsort(place, kind="stable")
