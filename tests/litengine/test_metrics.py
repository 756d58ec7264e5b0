import pytest
import torch
from sklearn.metrics import f1_score, recall_score, roc_auc_score
from torchmetrics import MetricCollection

from litengine.metrics import MeanAUROC, MeanF1, MeanRecall
from litengine.tally import Tally

CPU = torch.device("cpu")


def test_means_over_classes_leave_out_those_without_images():
    random = torch.Generator().manual_seed(3)
    logits, labels = torch.randn(60, 4, generator=random), torch.randint(0, 3, (60,), generator=random)  # none of 3
    assert (logits.argmax(1) == 3).sum() > 9  # but predicted
    means = {"recall": MeanRecall, "f1": MeanF1, "auroc": MeanAUROC}
    metrics = MetricCollection({name: mean(4, average="none") for name, mean in means.items()})
    tally = Tally("val", CPU, metrics, "abcd")
    for first in (0, 25):
        tally.add(torch.tensor(0.0), logits[first : first + 25 + first], labels[first : first + 25 + first])
    values = tally.values()
    settings = {"labels": [0, 1, 2], "average": "macro"}
    assert float(values["recall"]) == pytest.approx(recall_score(labels, logits.argmax(1), **settings))
    assert float(values["f1"]) == pytest.approx(f1_score(labels, logits.argmax(1), **settings))
    areas = [roc_auc_score(labels == label, logits.softmax(1)[:, label]) for label in range(3)]
    assert float(values["auroc"]) == pytest.approx(sum(areas) / 3)
