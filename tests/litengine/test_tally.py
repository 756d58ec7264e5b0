import pytest
import torch
from sklearn.metrics import f1_score, recall_score, roc_auc_score
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy

from litengine.tally import MeanAUROC, MeanF1, MeanRecall, Tally

CPU = torch.device("cpu")


@pytest.mark.parametrize("batches", [3, 2500])
def test_sums_are_those_of_all_batches_whatever_their_sizes(batches):
    generator = torch.Generator().manual_seed(0)
    tally, loss, correct, images = Tally("train", CPU), 0.0, 0, 0
    for number in range(batches):
        logits, labels = torch.rand(1 + number % 5, 3, generator=generator), torch.arange(1 + number % 5) % 3
        value = torch.rand((), generator=generator)
        tally.add(value, logits, labels)
        hits = (logits.numpy().argmax(1) == labels.numpy()).sum()
        loss, correct, images = loss + float(value) * len(labels), correct + hits, images + len(labels)
    sums = tally.sums()
    assert sums[1:].tolist() == [correct, images]
    assert float(sums[0]) == pytest.approx(loss, rel=1e-5)
    again = Tally("train", CPU)
    again.set(sums)  # as a resumed run does
    again.add(torch.tensor(2.0), torch.eye(2), torch.tensor([0, 0]))
    assert again.sums()[1:].tolist() == [correct + 1, images + 2]
    values = tally.values()
    assert set(values) == {"train/loss", "train/acc"}
    assert float(values["train/acc"]) == pytest.approx(correct / images)
    assert tally.sums().tolist() == [0, 0, 0]


def test_a_metric_with_a_value_for_each_class_has_a_name_for_each():
    recall = MetricCollection({"acc": MulticlassAccuracy(3, average="none")}, prefix="val/")
    tally = Tally("val", CPU, [recall], ["cat", "dog", "eel"])
    for _ in range(2):  # it starts again from zero
        tally.add(torch.tensor(2.0), torch.eye(3)[[0, 1, 1, 2]], torch.tensor([0, 1, 0, 0]))
        values = {name: float(value) for name, value in tally.values().items()}
        assert values == pytest.approx({"val/loss": 2.0, "val/acc/cat": 1 / 3, "val/acc/dog": 1.0})  # no eel
    assert [tally.higher_is_better(name) for name in ("val/acc", "val/acc/dog", "val/f1")] == [True, True, None]


def test_means_over_classes_leave_out_those_without_images():
    random = torch.Generator().manual_seed(3)
    logits, labels = torch.randn(60, 4, generator=random), torch.randint(0, 3, (60,), generator=random)  # none of 3
    assert (logits.argmax(1) == 3).sum() > 9  # but predicted
    means = {"recall": MeanRecall, "f1": MeanF1, "auroc": MeanAUROC}
    metrics = MetricCollection({name: mean(4, average="none") for name, mean in means.items()})
    tally = Tally("val", CPU, [metrics], "abcd")
    for first in (0, 25):
        tally.add(torch.tensor(0.0), logits[first : first + 25 + first], labels[first : first + 25 + first])
    values = tally.values()
    settings = {"labels": [0, 1, 2], "average": "macro"}
    assert float(values["recall"]) == pytest.approx(recall_score(labels, logits.argmax(1), **settings))
    assert float(values["f1"]) == pytest.approx(f1_score(labels, logits.argmax(1), **settings))
    areas = [roc_auc_score(labels == label, logits.softmax(1)[:, label]) for label in range(3)]
    assert float(values["auroc"]) == pytest.approx(sum(areas) / 3)
