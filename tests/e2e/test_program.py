"""The program as a user runs it: fit, test, validate, export, tune, on every shipped config and overlay."""

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
import yaml
from PIL import Image
from program import CONFIGS, DIGITS, NO_TRACKER, PREDICTIONS, only_run, rows
from wandb_file import WandbFile, find

from litcnn import load
from litcnn.__main__ import main
from litengine.data import Digits

TWO_STEPS = ["--data.batch_size", "8", "--trainer.limit_train_batches", "2", "--trainer.limit_val_batches", "1"]


def test_a_fit_leaves_one_directory_and_a_link_to_its_best_checkpoint(here: Path) -> None:
    run = only_run()
    assert run.parent.name == "digits" and Path("best.ckpt").resolve() == (run / "checkpoints/best.ckpt").resolve()
    expected = {"config.yaml", "metrics.csv", "checkpoints", "augmented_batch.png", "curves.png"}
    assert expected <= {path.name for path in run.iterdir()}
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["best.ckpt", "last.ckpt", "previous.ckpt"]
    epochs = [row for row in rows(run) if row["val/acc"]]
    assert [row["epoch"] for row in epochs] == ["0", "1", "2"]
    for name in ("train/loss", "train/acc", "val/loss", "val/acc", "lr", "images_per_second", "peak_memory_gib"):
        assert all(math.isfinite(float(row[name])) for row in epochs), name
    content = torch.load("best.ckpt", weights_only=True)
    assert content["config"]["model"]["network"]["init_args"]["widths"] == [16, 32, 64]
    assert content["data"]["class_names"] == [str(digit) for digit in range(10)]
    assert content["data"]["image_shape"] == [3, 32, 32]


def test_test_needs_nothing_but_the_checkpoint(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["test", "--ckpt_path", "best.ckpt"])
    metrics = json.loads((only_run() / "report/metrics.json").read_text())
    assert metrics["test/acc"] > 0.9 and f"{metrics['test/acc']:.4f}" in capsys.readouterr().out
    counts = np.array([36] * 10)  # stratified: 360 test images
    per_class = np.array([metrics[f"test/acc/{digit}"] for digit in range(10)])
    assert abs(per_class @ counts / 360 - metrics["test/acc"]) < 0.01
    predictions = rows(only_run(), PREDICTIONS)
    right = np.mean([row["label"] == row["prediction"] for row in predictions])
    assert len(predictions) == 360 and right == pytest.approx(metrics["test/acc"])
    assert "<svg" in (only_run() / "report/index.html").read_text("utf-8")
    assert all(0.1 <= float(row["confidence"]) <= 1 for row in predictions)


def test_validate_measures_what_fit_measured(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    best = max(float(row["val/acc"]) for row in rows(only_run()) if row["val/acc"])
    main(["validate", "--ckpt_path", "best.ckpt"])
    assert f"val/acc  │ {best:.4f}" in capsys.readouterr().out


def test_export_writes_into_the_run(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    main(["export", "--ckpt_path", "best.ckpt", "--format", "safetensors"])
    printed, chatter = capfd.readouterr()
    assert printed.count("\n") == 3 and chatter == ""
    assert printed.startswith(f"{only_run()}/export/best.safetensors")
    assert (only_run() / "export/best.safetensors").is_file()


def test_an_exported_file_answers_as_the_checkpoint_and_has_its_score(here: Path, tmp_path: Path) -> None:
    main(["export", "--ckpt_path", "best.ckpt", "--output", str(tmp_path / "digits.onnx")])
    session = onnxruntime.InferenceSession(tmp_path / "digits.onnx")
    best = max(float(row["val/acc"]) for row in rows(only_run()) if row["val/acc"])
    assert json.loads(session.get_modelmeta().custom_metadata_map["metrics"]) == {"val/acc": pytest.approx(best)}
    arrays = Digits().load("test")
    found = torch.from_numpy(session.run(None, {"images": arrays.images[:200].numpy()})[0])
    expected = load("best.ckpt", device="cpu").probabilities(arrays.images[:200])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def printed_config(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, dict]:
    with pytest.raises(SystemExit):
        main([*words, "--print_config"])
    return yaml.safe_load(capsys.readouterr().out)


def test_flags_and_configs_win_over_the_checkpoint(
    here: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "mine.yaml").write_text("data: {batch_size: 77}")
    given = ["--config", str(tmp_path / "mine.yaml"), "--model.label_smoothing", "0.25"]
    config = printed_config(capsys, "test", "--ckpt_path", "best.ckpt", *given)
    assert config["model"]["label_smoothing"] == 0.25 and config["data"]["batch_size"] == 77
    assert config["model"]["network"]["init_args"]["widths"] == [16, 32, 64]  # the checkpoint's


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("config", sorted({path.name for path in CONFIGS.glob("*.yaml")} - {"sweep.yaml"}))
def test_every_shipped_config_trains(config: str, tmp_path: Path) -> None:
    make_images(tmp_path / "images")
    digits = ["--data.source", "litengine.data.Digits"]  # in place of CIFAR-10, which would be downloaded
    narrow, root = "--model.network.init_args.widths", "--data.source.init_args.root"
    own = {
        "cnn.yaml": [*digits, narrow, "[8, 8, 8]"],
        "digits.yaml": [],
        "fast.yaml": [*digits, narrow, "[8, 8, 8]"],
        "finetune.yaml": [root, "images", "--model.init_from", "null"],
        "images.yaml": [root, "images", narrow, "[8, 8, 8]"],
        "resnet.yaml": [*digits, "--model.network.init_args.depths", "[1, 1, 1, 1]"],
    }
    options = [*own[config], *TWO_STEPS, "--trainer.max_epochs", "1"]
    main(["fit", "--config", str(CONFIGS / config), *NO_TRACKER, *options])
    run = only_run()
    assert run.parent.name == config.removesuffix(".yaml")
    assert math.isfinite(float(rows(run)[-1]["train/loss"]))
    main(["test", "--ckpt_path", "best.ckpt", "--trainer.limit_test_batches", "1"])
    assert (run / "report/metrics.json").exists()


@pytest.mark.usefixtures("undrawn")
def test_cosine_moves_every_epoch_and_ends_at_zero() -> None:
    overlays = ["--config", str(CONFIGS / "with/cosine.yaml"), "--config", str(CONFIGS / "with/tensorboard.yaml")]
    main(["fit", *DIGITS, *overlays, *TWO_STEPS, "--trainer.max_epochs", "4"])
    rates = [float(row["lr"]) for row in rows(only_run()) if row["lr"]]
    assert rates == pytest.approx([0.5 * 1e-3 * (1 + math.cos(math.pi * epoch / 4)) for epoch in range(4)])
    assert list((only_run() / "tensorboard").rglob("events.out.tfevents.*"))
    assert not (only_run() / "wandb").exists()


@pytest.mark.usefixtures("undrawn")
def test_early_stopping_stops() -> None:
    overlay = ["--config", str(CONFIGS / "with/early_stopping.yaml"), "--trainer.callbacks.patience", "1"]
    frozen = ["--model.lr_scheduler.init_args.max_lr", "0"]  # only the statistics of BatchNorm change
    main(["fit", *DIGITS, *NO_TRACKER, *overlay, *frozen, *TWO_STEPS, "--trainer.max_epochs", "30"])
    assert int(rows(only_run())[-1]["epoch"]) < 20


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("overlay", ["with/overfit.yaml", "with/wandb_and_tensorboard.yaml"])
def test_an_overlay_runs(overlay: str) -> None:
    little = ["--trainer.max_epochs", "3", "--data.batch_size", "128", "--model.network.widths", "[4]"]
    main(["fit", *DIGITS, "--config", str(CONFIGS / overlay), *little, "--trainer.limit_val_batches", "1"])
    losses = [float(row["train/loss"]) for row in rows(only_run()) if row["train/loss"]]
    assert len(losses) == 3 and losses[2] < losses[0]


@pytest.mark.usefixtures("undrawn")
def test_profile_names_the_steps() -> None:
    main(["fit", *DIGITS, *NO_TRACKER, "--config", str(CONFIGS / "with/profile.yaml"), *TWO_STEPS])
    assert "run_training_batch" in Path("runs/fit-profile.txt").read_text()


@pytest.mark.slow
def test_a_fit_without_a_key_is_recorded_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_MODE")
    few = ["--trainer.limit_train_batches", "2", "--trainer.max_epochs", "2", "--test_after_fit", "true"]
    program = [sys.executable, "-m", "litcnn", "fit", *DIGITS, *few]
    done = subprocess.run(program, capture_output=True, text=True, check=True)
    assert "W&B offline (no API key)" in done.stdout and "wandb sync" in done.stdout
    recorded = WandbFile(*find(only_run()))
    assert recorded.config["model"]["network"]["init_args"]["widths"] == [16, 32, 64]
    assert recorded.config["trainer"]["gradient_clip_val"] == 1.0 and recorded.config["seed_everything"] == 0
    names = {name for row in recorded.history for name in row}
    assert {"train/loss", "train/acc", "val/loss", "val/acc", "lr", "test/acc", "epoch", "trainer/global_step"} <= names
    (row,) = [row for row in recorded.history if "test/acc" in row]
    metrics = json.loads((only_run() / "report/metrics.json").read_text())
    assert row["test/acc"] == pytest.approx(metrics["test/acc"])


@pytest.mark.parametrize(
    ("overlay", "key"), [(["cosine"], "model.optimizer.init_args.lr"), ([], "model.lr_scheduler.init_args.max_lr")]
)
def test_tune_draws_the_curve_and_prints_a_flag(
    overlay: list[str], key: str, capsys: pytest.CaptureFixture[str]
) -> None:
    overlays = [word for name in overlay for word in ("--config", str(CONFIGS / f"with/{name}.yaml"))]
    main(["tune", *DIGITS, *overlays, "--steps", "12"])
    assert Image.open(only_run() / "learning_rate.png").size == (770, 440)
    assert not list(Path().rglob("*.ckpt"))
    flag, value = capsys.readouterr().out.split("paste: ")[1].split()
    assert flag == f"--{key}" and 1e-6 < float(value) < 10


@pytest.mark.parametrize(("bf16_in_hardware", "chosen"), [(False, "32-true"), (True, "bf16-mixed")])
def test_16_bit_precision_is_replaced_on_a_cpu(
    bf16_in_hardware: bool, chosen: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": bf16_in_hardware}, raising=False)
    main(["fit", *DIGITS, "--config", str(CONFIGS / "with/debug.yaml"), "--trainer.accelerator", "cpu"])
    assert f"precision {chosen}" in (printed := capsys.readouterr().out) and f"{chosen} in place of 16-mixed" in printed
    assert rows(only_run())[-1]["step"] == "3"


def test_a_class_in_place_of_another_starts_from_its_own_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    """jsonargparse would keep arguments of the same name: the widths of the CNN, the weight decay of Adam."""
    network = ["--model.network", "litcnn.networks.WhitenedCNN", "--model.optimizer", "litengine.optim.Muon"]
    model = printed_config(capsys, "fit", "--config", str(CONFIGS / "images.yaml"), *network)["model"]
    assert model["network"]["init_args"]["widths"] == [64, 256, 256]
    assert model["optimizer"]["init_args"]["weight_decay"] == 0.0
    assert model["lr_scheduler"]["class_path"] == "torch.optim.lr_scheduler.ReduceLROnPlateau"  # the model's own


def make_images(root: Path) -> None:
    """Forty pictures of two classes, of different sizes and modes."""
    random = np.random.default_rng(0)
    for name, brightness in {"cat": 60, "dog": 190}.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for number in range(20):
            height, width = random.integers(70, 100, 2)
            pixels = random.normal(brightness, 20, (height, width, 3)).clip(0, 255).astype(np.uint8)
            image = Image.fromarray(pixels)
            image.convert(["RGB", "L", "RGBA", "P"][number % 4]).save(root / name / f"{number}.png")
