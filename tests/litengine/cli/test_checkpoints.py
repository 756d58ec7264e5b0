"""What `test` does with a labelled folder and with several checkpoints, and what `tune` leaves."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from program import PREDICTIONS, rows
from project_for_tests import PACKAGE, ImageClassifier, load, main

from litengine.data import Digits
from litengine.export import export
from litengine.training.rate_test import RateRangeTest

TINY = ["--model.network.widths", "[4]", "--model.network.hidden", "8", "--trainer.logger", "false"]
FEW = ["--trainer.max_epochs", "1", "--trainer.limit_train_batches", "3", "--trainer.limit_val_batches", "1"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory with two fits of a tiny network."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        for seed in "12":
            main(["fit", *TINY, *FEW, "--name", f"seed{seed}", "--seed_everything", seed])
    return home


@pytest.fixture(autouse=True)
def here(home: Path, undrawn: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)


def test_a_folder_of_class_folders_is_the_test_split() -> None:
    arrays = Digits().load("test")
    for index in range(80):
        folder = Path("labelled", str(int(arrays.labels[index])))
        folder.mkdir(parents=True, exist_ok=True)
        pixels = np.ascontiguousarray(arrays.images[index].permute(1, 2, 0).numpy())
        Image.fromarray(pixels).save(folder / f"{index}.png")
    main(["test", "--ckpt_path", "best.ckpt", "--images", "labelled", "--trainer.logger", "false"])
    report = Path("best.ckpt").resolve().parents[1] / "report"
    right = [row["label"] == row["prediction"] for row in rows(report.parent, PREDICTIONS)]
    assert len(right) == 80
    assert json.loads((report / "metrics.json").read_text())["test/acc"] == pytest.approx(np.mean(right))


def test_the_probabilities_of_several_checkpoints_are_averaged() -> None:
    main(["test", "--ckpt_path", "runs/seed1", "runs/seed2", "--trainer.logger", "false"])
    (report,) = Path("runs/seed1").glob("*/report")  # of its own run directory: it is not a result of one of the fits
    assert not list(report.parent.glob("checkpoints"))
    arrays = Digits().load("test")
    members = [load(next(Path("runs").glob(f"seed{seed}/*/checkpoints/best.ckpt"))) for seed in "12"]
    each = torch.stack([member.probabilities(arrays.images[:]) for member in members])
    assert float((each[0] - each[1]).abs().max()) > 0.01
    confidence, label = each.mean(0).max(1)
    found = rows(report.parent, PREDICTIONS)
    assert [int(row["prediction"]) for row in found] == label.tolist()
    assert [float(row["confidence"]) for row in found] == pytest.approx(confidence.tolist(), abs=1e-5)
    metrics = json.loads((report / "metrics.json").read_text())
    loss = torch.nn.functional.nll_loss(each.mean(0).log(), arrays.labels)
    assert metrics["test/loss"] == pytest.approx(float(loss), abs=1e-5)


def test_tune_takes_the_schedule_out_whatever_the_project_calls_it() -> None:
    model = ImageClassifier(torch.nn.Linear(2, 2), lr_scheduler=lambda optimizer: pytest.fail("a schedule was made"))
    RateRangeTest(10, 1e-4, 1.0).setup(None, model, "fit")
    assert isinstance(model.configure_optimizers(), torch.optim.Adam)


def test_tune_leaves_no_run_that_could_be_resumed(capsys: pytest.CaptureFixture[str]) -> None:
    main(["tune", *TINY, "--steps", "12", "--name", "tuned", "--model.optimizer", "torch.optim.SGD"])
    assert "loss against rate: runs/tuned/" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["fit", "--resume", "last"])
    assert capsys.readouterr().out.startswith("runs/seed2/")  # is finished


def test_oblong_images_are_fitted_tested_and_exported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    for index in range(24):
        folder = Path("images", "cat" if index % 2 else "dog")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (20, 20 + index, 3), dtype=np.uint8)).save(folder / f"{index}.png")
    size = ["--data.source.init_args.image_size", "[16, 24]", "--data.source.init_args.fit", "pad"]
    source = ["--data.source", "litengine.data.ImageFolder", "--data.source.init_args.root", "images", *size]
    main(["fit", *TINY, *FEW, *source, "--data.batch_size", "4"])
    main(["test", "--ckpt_path", "best.ckpt", "--images", "images", "--trainer.logger", "false"])
    with pytest.raises(SystemExit):  # before the first layer of that size fails
        main(["test", "--ckpt_path", "best.ckpt", "--data.source.image_size", "16"])
    assert "images of shape [3, 16, 24], but the data has [3, 16, 16]" in capsys.readouterr().err
    predictor = load("best.ckpt", "cpu")
    assert predictor.image_size == (16, 24) and predictor.classifier.image_shape == (3, 16, 24)
    found = rows(Path("best.ckpt").resolve().parents[1], PREDICTIONS)
    assert len(found) == 24
    for row in found:
        assert row["prediction"] == predictor.predict(row["image"]).label
    export("best.ckpt", "torch", trust=[PACKAGE])  # compares the file's probabilities with the checkpoint's
