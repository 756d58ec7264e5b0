"""The numbers of a report, against scikit-learn and computed examples."""

import math

import numpy as np
import pytest
import sklearn.metrics as reference
import torch
from report_examples import predicted, results
from torchmetrics.functional.classification import multiclass_calibration_error

from litengine.report import Confusion, Results, ranked


@pytest.mark.parametrize("classes", [2, 5, 6, 100])
def test_the_numbers_are_those_of_scikit_learn(classes):
    probabilities, labels = (tensor.numpy() for tensor in predicted(classes))
    ours, predictions = results(classes), probabilities.argmax(1)
    assert ours.metrics["acc"] == pytest.approx(reference.accuracy_score(labels, predictions))
    with_images = np.unique(labels)  # the last of more than two classes has none
    f1 = reference.f1_score(labels, predictions, labels=with_images, average="macro")
    assert ours.metrics["f1"] == pytest.approx(f1)
    assert ("acc_top5" in ours.metrics) == (classes > 5)
    if classes > 5:
        top5 = reference.top_k_accuracy_score(labels, probabilities, k=5, labels=range(classes))
        assert ours.metrics["acc_top5"] == pytest.approx(top5) and ours.metrics["acc"] < top5 < 1
    expected = reference.precision_recall_fscore_support(
        labels, predictions, labels=range(classes), zero_division=np.nan
    )
    found = np.array([[row.precision, row.recall, row.f1, row.support] for row in ours.per_class], dtype=float)
    np.testing.assert_allclose(found[with_images], np.array(expected).T[with_images], rtol=1e-6)
    assert all(map(math.isnan, ours.per_class[-1][2:5])) == (classes > 2)
    assert [(row.label, row.name) for row in ours.per_class] == [(k, f"class {k}") for k in range(classes)]
    assert math.isnan(ours.per_class[1].precision) and ours.per_class[1].recall == 0  # never predicted
    matrix = reference.confusion_matrix(labels, predictions, labels=range(classes))
    np.testing.assert_array_equal(ours.confusion.numpy(), matrix)


@pytest.mark.parametrize("classes", [2, 10])
def test_the_calibration_error_is_that_of_whole_probabilities_and_of_the_bins(classes):
    probabilities, labels = predicted(classes)
    ours = results(classes)
    whole = multiclass_calibration_error(probabilities.double(), labels, classes, n_bins=15)
    assert ours.metrics["ece"] == pytest.approx(float(whole))
    assert ours.bins[0].sum() == 600


def test_the_calibration_error_of_a_computed_example():
    # Two of confidence 0.8, one of them right: 0.3 off. One of 0.6, right: 0.4 off. 0.95 and exactly 1 share a bin; the
    # second is wrong: (1.95 - 1) / 2 = 0.475 off.
    confidences, right = torch.tensor([0.8, 0.8, 0.6, 0.95, 1.0]), torch.tensor([1, 0, 1, 1, 0])
    probabilities = torch.stack([confidences, 1 - confidences], 1)
    ours = Results.of(probabilities, 1 - right, ["a", "b"])
    assert ours.metrics["ece"] == pytest.approx((2 * 0.3 + 0.4 + 2 * 0.475) / 5)
    assert ours.bins[:, -1].tolist() == pytest.approx([2, 0.975, 0.5])
    assert ours.bins[:, 0].tolist() == pytest.approx([0, math.nan, math.nan], nan_ok=True)


def test_the_most_probable_classes_best_first_and_of_equals_the_first():
    probabilities = torch.tensor([[0.1, 0.3, 0.3, 0.05, 0.05, 0.05, 0.15], [0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0]])
    classes, values = ranked(probabilities)
    assert classes.tolist() == [[1, 2, 6, 0, 3], [5, 0, 1, 2, 3]]
    assert values[0].tolist() == pytest.approx([0.3, 0.3, 0.15, 0.1, 0.05])
    assert ranked(probabilities[:, :2])[0].tolist() == [[1, 0], [0, 1]]


def test_a_diverged_network_is_sure_of_nothing():
    ours = Results.of(torch.full((4, 3), math.nan), torch.tensor([0, 1, 2, 0]), list("abc"))
    assert ours.metrics["acc"] == 0.5 and ours.metrics["ece"] == pytest.approx(0.5)
    assert ours.confidences.tolist() == [0, 0, 0, 0]


def test_what_was_confused_with_what():
    labels, predictions = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2]), torch.tensor([0, 1, 1, 1, 0, 0, 0, 1])
    ours = Results.of(torch.nn.functional.one_hot(predictions, 3).float(), labels, list("abc"))
    assert ours.most_confused(3) == [Confusion(0, 1, 2), Confusion(2, 0, 2), Confusion(1, 0, 1)]
    assert ours.most_confused(9)[3:] == [Confusion(2, 1, 1)]  # there are no more


def test_mistakes_by_confidence():
    confidences = torch.tensor([0.9, 0.6, 0.7, 0.99, 0.6])
    right = torch.tensor([0, 0, 1, 0, 0])
    ours = Results.of(torch.stack([confidences, 1 - confidences], 1), 1 - right, ["a", "b"])
    assert ours.confident_mistakes(9) == [3, 0, 1, 4] and ours.confident_mistakes(2) == [3, 0]


def test_the_worst_class_is_first_and_one_without_images_last():
    ours = results(10)
    worst = ours.worst_classes()
    assert [row.label for row in worst[:-1]] == sorted(range(9), key=lambda label: ours.per_class[label].f1)
    assert worst[-1].support == 0 and ours.worst_classes(3) == worst[:3]
