"""Seeded, stratified splits of a training set."""

import warnings
from collections.abc import Sequence
from fractions import Fraction
from math import ceil

import numpy as np

MOST_PARTS = 20  # the largest denominator of the fraction, if whole groups are held out


def stratified_split(
    labels: np.ndarray, fraction: float, seed: int, groups: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Holds out `fraction` of every class, one image at least; with groups, int64 (n,), about that much, in whole
    groups.

    Returns two arrays of indices, int64, ascending: those that stay, and those held out. Raises ValueError if a class
    has too few images for both sides.
    """
    if groups is not None:
        share = Fraction(fraction).limit_denominator(MOST_PARTS) or Fraction(1, MOST_PARTS)
        parts = _parts(labels, share.denominator, seed, groups)
        held_out = np.sort(np.concatenate(parts[: share.numerator]))
        return np.setdiff1d(np.arange(len(labels)), held_out), held_out
    _, counts = np.unique(labels, return_counts=True)
    count = max(ceil(fraction * len(labels)), len(counts))
    if counts.min() < 2 or count > len(labels) - len(counts):
        raise ValueError(
            f"data.val_fraction {fraction} of {len(labels)} training images cannot be held out class by class: the "
            f"smallest of {len(counts)} classes has {counts.min()}, and each needs an image on both sides. Add images, "
            "leave the class out, or choose another data.val_fraction, 0 for no validation"
        )
    kept, held_out = stratified_shuffle(labels, count, seed)
    for label in np.setdiff1d(labels, labels[held_out]):  # its share is less than half an image
        own = kept[labels[kept] == label]
        held_out = np.append(held_out, own[0])
    return np.setdiff1d(kept, held_out), np.sort(held_out)


def stratified_shuffle(labels: np.ndarray, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The indices, int64, that stay, in random order, and the `count` ones held out: those of scikit-learn's stratified
    `train_test_split`, whose import takes half a second."""
    _, counts = np.unique(labels, return_counts=True)
    generator = np.random.RandomState(seed)
    stay = _shares(counts, len(labels) - count, generator)
    _shares(counts - stay, count, generator)  # scikit-learn draws here too
    by_class = np.split(np.argsort(labels, kind="stable"), np.cumsum(counts)[:-1])
    shuffled = [own[generator.permutation(len(own))] for own in by_class]
    pairs = [np.split(own, [number]) for own, number in zip(shuffled, stay, strict=True)]
    kept, held_out = map(np.concatenate, zip(*pairs, strict=True))
    return generator.permutation(kept), held_out


def _shares(counts: np.ndarray, total: int, generator: np.random.RandomState) -> np.ndarray:
    """int64 (classes,), sum `total`: in proportion to `counts`, rounded; of equal remainders, random ones up."""
    exact = counts / counts.sum() * total
    shares: np.ndarray = exact.astype(np.int64)
    missing, remainders = total - shares.sum(), exact - shares
    for remainder in np.unique(remainders)[::-1]:
        if missing > 0:
            tied = np.flatnonzero(remainders == remainder)
            chosen = generator.choice(tied, min(len(tied), missing), replace=False)
            shares[chosen] += 1
            missing -= len(chosen)
    return shares


def stratified_fold(
    labels: np.ndarray, class_names: Sequence[str], folds: int, fold: int, seed: int, groups: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Cuts the images into `folds` parts, every class evenly, and holds out part `fold`. With groups, int64 (n,), a
    part holds whole groups, and classes only about evenly.

    Returns two arrays of indices, int64, ascending: those that stay, and those held out. Raises ValueError if a class
    has fewer images than there are folds.
    """
    present, counts = np.unique(labels, return_counts=True)
    if groups is None and counts.min() < folds:
        rarest = class_names[present[counts.argmin()]]
        most = f"choose {counts.min()} folds or fewer" if counts.min() > 1 else "no number of folds is possible"
        raise ValueError(
            f"data.folds is {folds}, but there are only {counts.min()} training images of {rarest!r}, and every fold "
            f"needs one: {most}"
        )
    held_out = _parts(labels, folds, seed, groups)[fold]
    return np.setdiff1d(np.arange(len(labels)), held_out), held_out


def _parts(labels: np.ndarray, parts: int, seed: int, groups: np.ndarray | None) -> list[np.ndarray]:
    """Indices, int64, ascending, of the images in each part; a group is in one part only."""
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    if groups is not None and (count := len(np.unique(groups))) < parts:
        raise ValueError(
            f"the training images are of {count} groups, but {parts} parts of whole groups are needed for the "
            "validation images: choose fewer data.folds or a larger data.val_fraction"
        )
    splitter = (StratifiedKFold if groups is None else StratifiedGroupKFold)(parts, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a class has fewer images than there are parts
        found = [held_out for _, held_out in splitter.split(labels, labels, groups)]
    if any(len(part) == 0 for part in found):
        raise ValueError(f"the training images cannot be cut into {parts} parts of whole groups: choose fewer parts")
    return found


def evenly_mixed(labels: np.ndarray) -> np.ndarray:
    """An order, int64 (n,), in which every beginning holds the classes in about the shares that they have of all."""
    place = np.empty(len(labels))
    for label in np.unique(labels):
        own = np.flatnonzero(labels == label)
        place[own] = (np.arange(len(own)) + 0.5) / len(own)
    return np.argsort(place, kind="stable")
