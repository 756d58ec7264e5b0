from pathlib import Path

import pytest
import torch
from helpers import FakeSource, fit, trainer
from project_for_tests import CNN, ImageClassifier, ImageData

from litengine.inference.predictor import Classifier
from litengine.report import Results
from litengine.training import Checkpoints, FitTemperature, WriteReport
from litengine.training.calibration import fit_temperature

BEST, LAST = Path("checkpoints/best.ckpt"), Path("checkpoints/last.ckpt")


def classifier() -> ImageClassifier:
    torch.manual_seed(0)
    return ImageClassifier(CNN(widths=[4, 6], hidden=8, image_size=8, num_classes=3), lr_scheduler=None, tta="flip")


def images(val_fraction: float = 0.3) -> ImageData:
    return ImageData(FakeSource(), batch_size=7, val_fraction=val_fraction)


def load(path: Path) -> dict:
    return torch.load(path, weights_only=True)


def restored(content: dict) -> Classifier:
    found = Classifier(classifier().network, content["data"]).eval()
    found.load_state_dict({k: v for k, v in content["state_dict"].items() if k.startswith("network.")})
    return found


@pytest.mark.parametrize("true", [0.2, 1.0, 5.0])
def test_the_temperature_of_known_probabilities_is_found(true):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(5000, 10, generator=generator) * 2
    labels = logits.softmax(1).multinomial(1, generator=generator)[:, 0]
    found = fit_temperature(logits * true, labels)
    assert found == pytest.approx(true, rel=0.06)
    names = list("abcdefghij")
    assert Results.of((logits * true / found).softmax(1), labels, names).metrics["ece"] < 0.02


def test_without_a_mistake_the_temperature_stays_near_one():
    labels = torch.arange(100) % 3
    assert 0.3 < fit_temperature(4 * torch.eye(3)[labels], labels) < 1


def test_logits_that_are_not_finite_leave_the_temperature_at_one():
    assert fit_temperature(torch.full((4, 3), torch.nan), torch.zeros(4, dtype=torch.int64)) == 1


def test_the_best_checkpoint_gets_the_temperature_of_its_own_logits():
    model, data = classifier(), images()
    model.temperature = 5.0  # as of a checkpoint that the fit resumes from
    fit(model, data, Checkpoints(link_best=False), FitTemperature(), epochs=3)
    content = load(BEST)
    temperature = content["data"].pop("temperature")
    val = data.subset("val")
    with torch.no_grad():
        logits = restored(content).infer(val.arrays.images[torch.from_numpy(val.indices)])
    assert temperature == pytest.approx(fit_temperature(logits, torch.from_numpy(val.labels)), rel=1e-4)
    assert temperature != pytest.approx(1, rel=1e-3)
    rows = Path("validation.csv").read_text().splitlines()
    assert rows[0] == "image,label,prediction,confidence"
    confidences = (logits / temperature).softmax(1).amax(1)
    names = [data.class_names[label] for label in val.labels]
    for row, index, name, confidence in zip(rows[1:], val.indices, names, confidences, strict=True):
        assert row.split(",")[:2] == [str(index), name]
        assert float(row.split(",")[3]) == pytest.approx(float(confidence), abs=1e-4)
    # the other checkpoint and the model are those of the fit
    last = load(LAST)
    assert "temperature" not in last["data"]
    assert all(torch.equal(value, last["state_dict"][name]) for name, value in model.state_dict().items())


def test_without_validation_images_nothing_is_fitted(capsys):
    fit(classifier(), images(val_fraction=0), Checkpoints(link_best=False), FitTemperature(), epochs=1)
    assert "temperature" not in load(LAST)["data"]
    assert "not calibrated" in capsys.readouterr().out


def test_a_test_has_the_probabilities_of_prediction_and_shows_those_before():
    fit(classifier(), images(), Checkpoints(link_best=False), FitTemperature(), epochs=1)
    content = load(BEST)
    content["data"]["temperature"] = 0.25
    torch.save(content, BEST)
    data, report = images(), WriteReport()
    trainer(report).test(classifier(), data, ckpt_path=str(BEST), verbose=False)
    arrays = data.subset("test").arrays
    with torch.no_grad():
        confidences = restored(content).infer(arrays.images).softmax(1).amax(1)
        content["data"]["temperature"] = 1.0
        before = restored(content).infer(arrays.images).softmax(1).amax(1)
    rows = Path("report/predictions.csv").read_text().splitlines()[1:]
    assert [float(row.split(",")[3]) for row in rows] == pytest.approx(confidences.tolist(), abs=1e-5)
    assert report._uncalibrated.confidences.tolist() == pytest.approx(before.tolist(), abs=1e-4)
    assert "Before the temperature" in Path("report/index.html").read_text()


def test_the_temperature_is_that_of_batches_as_the_validation_gets_them():
    class Dark(ImageData):
        def on_after_batch_transfer(self, batch, dataloader_idx):
            return batch[0] * 0, batch[1]

    data = Dark(FakeSource(), batch_size=7, val_fraction=0.3)
    fit(classifier(), data, Checkpoints(link_best=False), FitTemperature(), epochs=1)
    rows = Path("validation.csv").read_text().splitlines()[1:]
    assert len({row.split(",")[3] for row in rows}) == 1 < len(rows)
