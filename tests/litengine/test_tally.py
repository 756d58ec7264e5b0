import pytest
import torch
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy

from litengine.tally import Tally

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
    tally = Tally("val", CPU, recall, ["cat", "dog", "eel"])
    for _ in range(2):  # it starts again from zero
        tally.add(torch.tensor(2.0), torch.eye(3)[[0, 1, 1, 2]], torch.tensor([0, 1, 0, 0]))
        values = {name: float(value) for name, value in tally.values().items()}
        assert values == pytest.approx({"val/loss": 2.0, "val/acc/cat": 1 / 3, "val/acc/dog": 1.0})  # no eel
    assert [tally.higher_is_better(name) for name in ("val/acc", "val/acc/dog", "val/f1")] == [True, True, None]
