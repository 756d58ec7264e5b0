import numpy as np
import pytest
from sklearn.model_selection import train_test_split

from litengine.data.splits import evenly_mixed, stratified_shuffle, stratified_split


def test_a_rare_class_has_an_image_on_both_sides():
    labels = np.repeat([0, 1, 2], [498, 2, 3])
    for seed in range(5):
        kept, held_out = stratified_split(labels, 0.1, seed)
        assert np.array_equal(np.sort([*kept, *held_out]), np.arange(503))
        counts = np.bincount(labels[held_out])
        assert counts.min() == 1 and abs(counts[0] - 50) <= 1
        assert set(labels[kept]) == {0, 1, 2}
    few = np.repeat([0, 1, 2], [6, 5, 3])  # a tenth is two images
    for fraction, each in ((0.1, [1, 1, 1]), (0.4, [3, 2, 1])):
        assert np.bincount(few[stratified_split(few, fraction, 0)[1]]).tolist() == each
    with pytest.raises(ValueError, match="10 training images cannot be held out class by class"):
        stratified_split(np.repeat([0, 1], [9, 1]), 0.1, 0)


@pytest.mark.parametrize("seed", range(100))
def test_a_shuffled_split_is_that_of_scikit_learn(seed):
    generator = np.random.default_rng(seed)
    classes = generator.integers(2, 40)
    labels = generator.permutation(np.repeat(np.arange(classes) * 2, generator.integers(2, [5, 60][seed % 2], classes)))
    count = int(generator.integers(classes, len(labels) - classes + 1))
    kept, held_out = train_test_split(np.arange(len(labels)), test_size=count, stratify=labels, random_state=seed)
    ours = stratified_shuffle(labels, count, seed)
    assert np.array_equal(kept, ours[0])
    assert np.array_equal(np.sort(held_out), np.sort(ours[1]))


def test_the_first_images_of_a_mixed_order_are_of_all_classes():
    labels = np.repeat([0, 1, 2], [60, 30, 10])  # sorted by class, as a folder is
    order = evenly_mixed(labels)
    assert np.array_equal(np.sort(order), np.arange(100))
    for first in range(10, 101, 10):
        counts = np.bincount(labels[order[:first]], minlength=3)
        assert np.abs(counts - first * np.array([0.6, 0.3, 0.1])).max() <= 1
