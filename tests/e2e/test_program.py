"""The program as a user runs it: fit, test, validate, on every shipped config."""

import csv
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from wandb_file import WandbFile, find

from litcnn.__main__ import main

CONFIGS = Path(__file__).parents[2] / "configs"
DIGITS = ["--config", str(CONFIGS / "digits.yaml")]
NO_TRACKER = ["--config", str(CONFIGS / "with/no_tracker.yaml")]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory in which digits.yaml was fitted for three epochs."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        # in the precision of the evaluations: where a CPU multiplies bfloat16 in hardware, a fit would use that
        main(["fit", *DIGITS, *NO_TRACKER, "--trainer.max_epochs", "3", "--trainer.precision", "32-true"])
    return home


@pytest.fixture
def here(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(home)
    return home


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def only_run(home: Path) -> Path:
    (run,) = (home / "runs").glob("*/*")
    return run


def test_a_fit_leaves_one_directory_and_a_link_to_its_best_checkpoint(here: Path) -> None:
    run = only_run(here)
    assert run.parent.name == "digits"
    assert {"config.yaml", "metrics.csv", "checkpoints"} <= {path.name for path in run.iterdir()}
    assert (here / "best.ckpt").resolve() == run / "checkpoints" / "best.ckpt"
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["best.ckpt", "last.ckpt", "previous.ckpt"]
    epochs = [row for row in rows(run) if row["val/acc"]]
    assert [row["epoch"] for row in epochs] == ["0", "1", "2"]
    for name in ("train/loss", "train/acc", "val/loss", "val/acc", "lr", "images_per_second", "peak_memory_gib"):
        assert all(math.isfinite(float(row[name])) for row in epochs), name


def test_the_checkpoint_is_plain_data_and_remembers_what_made_it(here: Path) -> None:
    content = torch.load(here / "best.ckpt", weights_only=True)
    assert content["config"]["model"]["network"]["init_args"]["widths"] == [16, 32, 64]
    assert content["config"]["name"] == "digits"
    assert content["data"]["class_names"] == [str(digit) for digit in range(10)]
    assert content["data"]["image_shape"] == [3, 32, 32]


def test_test_needs_nothing_but_the_checkpoint(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["test", "--ckpt_path", "best.ckpt"])
    metrics = json.loads((only_run(here) / "report" / "metrics.json").read_text())
    assert metrics["test/acc"] > 0.9  # three epochs
    counts = np.array([36] * 10)  # stratified: 360 test images
    per_class = np.array([metrics[f"test/acc/{digit}"] for digit in range(10)])
    assert abs(per_class @ counts / 360 - metrics["test/acc"]) < 0.01
    printed = capsys.readouterr().out
    assert "360" in printed and f"{metrics['test/acc']:.4f}" in printed


def test_validate_measures_what_fit_measured(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    best = max(float(row["val/acc"]) for row in rows(only_run(here)) if row["val/acc"])
    main(["validate", "--ckpt_path", "best.ckpt"])
    assert f"val/acc  │ {best:.4f}" in capsys.readouterr().out


def test_predictions_of_the_test_agree_with_its_accuracy(here: Path) -> None:
    main(["test", "--ckpt_path", "best.ckpt"])
    with (only_run(here) / "report" / "predictions.csv").open() as file:
        predictions = list(csv.DictReader(file))
    right = np.mean([row["label"] == row["prediction"] for row in predictions])
    metrics = json.loads((only_run(here) / "report" / "metrics.json").read_text())
    assert len(predictions) == 360 and right == pytest.approx(metrics["test/acc"])
    assert all(0.1 <= float(row["confidence"]) <= 1 for row in predictions)


def test_flags_and_configs_win_over_what_the_checkpoint_remembers(
    here: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "mine.yaml").write_text("data: {batch_size: 77}")
    given = ["--config", str(tmp_path / "mine.yaml"), "--model.label_smoothing", "0.25"]
    with pytest.raises(SystemExit):
        main(["test", "--ckpt_path", "best.ckpt", *given, "--print_config"])
    config = yaml.safe_load(capsys.readouterr().out)
    assert config["model"]["label_smoothing"] == 0.25
    assert config["data"]["batch_size"] == 77
    assert config["model"]["network"]["init_args"]["widths"] == [16, 32, 64]  # the checkpoint's


def test_a_checkpoint_of_another_network_is_named(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["test", "--ckpt_path", "best.ckpt", "--model.network.init_args.widths", "[8, 16]"])
    assert stopped.value.code == 2
    assert "another network" in capsys.readouterr().err


def test_data_with_other_classes_is_refused(here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_images(tmp_path / "images")
    source = ["--data.source", "litengine.data.ImageFolder", "--data.source.root", str(tmp_path / "images")]
    with pytest.raises(SystemExit) as stopped:
        main(["test", "--ckpt_path", "best.ckpt", *source])
    assert stopped.value.code == 2
    assert "cat, dog" in capsys.readouterr().err


def test_test_without_a_checkpoint_says_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["test"])
    assert stopped.value.code == 2
    assert "--ckpt_path best.ckpt" in capsys.readouterr().err


def test_a_missing_checkpoint_names_those_that_are_there(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["test", "--ckpt_path", "bets.ckpt"])
    assert stopped.value.code == 2
    assert "best.ckpt" in capsys.readouterr().err


def test_no_network_says_what_to_do_and_leaves_no_run(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    url = ["--data.source.init_args.url", "http://127.0.0.1:9/cifar-10-python.tar.gz"]
    with pytest.raises(SystemExit) as stopped:
        main(["fit", "--config", str(CONFIGS / "cnn.yaml"), *url])
    assert stopped.value.code == 2
    message = capsys.readouterr().err
    assert "url" in message and "cifar-10-python.tar.gz" in message and "configs/digits.yaml" in message
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("config", sorted({path.name for path in CONFIGS.glob("*.yaml")} - {"sweep.yaml"}))
def test_every_shipped_config_trains(config: str, tmp_path: Path) -> None:
    make_images(tmp_path / "images")
    source = {
        "digits.yaml": [],
        "finetune.yaml": ["--data.source.init_args.root", "images", "--model.init_from", "null"],
        "images.yaml": ["--data.source.init_args.root", str(tmp_path / "images")],
    }.get(config, ["--data.source", "litengine.data.Digits"])  # theirs would have to be downloaded
    few = ["--trainer.limit_train_batches", "2", "--trainer.limit_val_batches", "1", "--data.batch_size", "16"]
    main(["fit", "--config", str(CONFIGS / config), *NO_TRACKER, *source, *few, "--trainer.max_epochs", "1"])
    run = only_run(tmp_path)
    assert run.parent.name == config.removesuffix(".yaml")
    assert math.isfinite(float(rows(run)[-1]["train/loss"]))
    main(["test", "--ckpt_path", "best.ckpt"])
    assert (run / "report" / "metrics.json").exists()


TWO_STEPS_AN_EPOCH = [
    "--data.batch_size",
    "16",
    "--trainer.limit_train_batches",
    "2",
    "--trainer.limit_val_batches",
    "1",
]


def test_cosine_moves_every_epoch_and_ends_at_zero(tmp_path: Path) -> None:
    overlay = ["--config", str(CONFIGS / "with/cosine.yaml")]
    main(["fit", *DIGITS, *NO_TRACKER, *overlay, *TWO_STEPS_AN_EPOCH, "--trainer.max_epochs", "4"])
    rates = [float(row["lr"]) for row in rows(only_run(tmp_path)) if row["lr"]]
    assert rates == pytest.approx([0.5 * 1e-3 * (1 + math.cos(math.pi * epoch / 4)) for epoch in range(4)])


def test_early_stopping_stops(tmp_path: Path) -> None:
    overlay = ["--config", str(CONFIGS / "with/early_stopping.yaml"), "--model.lr_scheduler.init_args.max_lr", "0"]
    main(["fit", *DIGITS, *NO_TRACKER, *overlay, *TWO_STEPS_AN_EPOCH, "--trainer.max_epochs", "30"])
    assert int(rows(only_run(tmp_path))[-1]["epoch"]) < 20  # BatchNorm's statistics still move for a while


def test_one_cycle_moves_every_step_and_ends_at_the_last(tmp_path: Path) -> None:
    overlay = ["--config", str(CONFIGS / "with/one_cycle.yaml"), "--trainer.log_every_n_steps", "1"]
    main(["fit", *DIGITS, *NO_TRACKER, *overlay, *TWO_STEPS_AN_EPOCH, "--trainer.max_epochs", "5"])
    rates = [float(row["lr_step"]) for row in rows(only_run(tmp_path)) if row["lr_step"]]
    steps, top = 10, 0.003
    rise = 0.3 * steps - 1

    def expected(step: int) -> float:
        start, end = (top / 25, top) if step <= rise else (top, top / 25 / 1e4)
        part = step / rise if step <= rise else (step - rise) / (steps - 1 - rise)
        return end + (start - end) / 2 * (1 + math.cos(math.pi * part))

    assert rates == pytest.approx([expected(step) for step in range(steps)], rel=1e-4)


def test_debug_takes_four_batches(tmp_path: Path) -> None:
    main(["fit", *DIGITS, "--config", str(CONFIGS / "with/debug.yaml")])
    assert rows(only_run(tmp_path))[-1]["step"] == "3"


def test_tensorboard_takes_the_place_of_wandb(tmp_path: Path) -> None:
    few = ["--trainer.limit_train_batches", "2", "--trainer.max_epochs", "1"]
    main(["fit", *DIGITS, "--config", str(CONFIGS / "with/tensorboard.yaml"), *few])
    run = only_run(tmp_path)
    assert list((run / "tensorboard").rglob("events.out.tfevents.*"))
    assert not (run / "wandb").exists()
    assert (run / "metrics.csv").exists()


def test_a_fit_without_a_key_is_recorded_offline_with_config_and_metrics(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    few = ["--trainer.limit_train_batches", "2", "--trainer.max_epochs", "2", "--test_after_fit", "true"]
    program = [sys.executable, "-m", "litcnn", "fit", *DIGITS, *few]
    done = subprocess.run(program, capture_output=True, text=True, check=True, timeout=120)
    assert "W&B offline (no API key)" in done.stdout and "wandb sync" in done.stdout
    recorded = WandbFile(*find(only_run(tmp_path)))
    config = recorded.config
    assert config["model"]["network"]["init_args"]["widths"] == [16, 32, 64]
    assert config["trainer"]["gradient_clip_val"] == 1.0 and config["seed_everything"] == 0
    names = {name for row in recorded.history for name in row}
    assert {"train/loss", "train/acc", "val/loss", "val/acc", "lr", "test/acc", "epoch", "trainer/global_step"} <= names
    (row,) = [row for row in recorded.history if "test/acc" in row]
    metrics = json.loads((only_run(tmp_path) / "report" / "metrics.json").read_text())
    assert row["test/acc"] == pytest.approx(metrics["test/acc"])


@pytest.mark.parametrize(
    "network",
    [
        ["torchvision.models.resnet18"],
        [
            "timm.create_model",
            "--model.network.init_args.model_name",
            "resnet10t",
            "--model.network.dict_kwargs.num_classes",
            "10",
        ],
        ["mine.Net", "--model.network.init_args.depth", "2"],
    ],
)
def test_any_network_that_can_be_imported(network: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Sequential):\n"
        "    def __init__(self, depth: int, num_classes: int = 2):\n"
        "        layers = [nn.Linear(3072, 3072) for _ in range(depth)]\n"
        "        super().__init__(nn.Flatten(), *layers, nn.Linear(3072, num_classes))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    few = ["--trainer.limit_train_batches", "1", "--trainer.limit_val_batches", "1", "--trainer.max_epochs", "1"]
    main(["fit", *NO_TRACKER, "--data.batch_size", "8", *few, "--model.network", *network])
    trust = ["--trust", "mine"] if network[0] == "mine.Net" else []
    main(["test", "--ckpt_path", "best.ckpt", "--data.batch_size", "90", *trust])
    assert json.loads((only_run(tmp_path) / "report" / "metrics.json").read_text())["test/acc"] >= 0


def test_a_network_with_too_many_logits_is_told_how_many_classes_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    network = ["--model.network", "timm.create_model", "--model.network.init_args.model_name", "resnet10t"]
    with pytest.raises(SystemExit) as stopped:
        main(
            [
                "fit",
                *NO_TRACKER,
                "--data.batch_size",
                "8",
                *network,
                "--model.network.dict_kwargs",
                '{"num_classes": 7}',
            ]
        )
    assert stopped.value.code == 2
    message = capsys.readouterr().err
    assert "num_classes" in message and "7" in message and "10" in message


def test_without_validation_the_last_weights_are_kept(tmp_path: Path) -> None:
    few = ["--trainer.limit_train_batches", "2", "--trainer.max_epochs", "2"]
    main(["fit", *DIGITS, *NO_TRACKER, *few, "--data.val_fraction", "0"])
    assert (tmp_path / "best.ckpt").resolve().name == "last.ckpt"
    assert torch.load("best.ckpt", weights_only=True)["epoch"] == 1
    assert "val/acc" not in rows(only_run(tmp_path))[-1]


@pytest.mark.parametrize(("bf16_in_hardware", "chosen"), [(False, "32-true"), (True, "bf16-mixed")])
def test_16_bit_precision_gives_way_on_a_cpu(
    bf16_in_hardware: bool, chosen: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": bf16_in_hardware}, raising=False)
    few = ["--trainer.limit_train_batches", "1", "--trainer.max_epochs", "1", "--trainer.accelerator", "cpu"]
    main(["fit", *DIGITS, *NO_TRACKER, *few])
    assert f"precision {chosen}" in (printed := capsys.readouterr().out) and f"{chosen} in place of 16-mixed" in printed


def test_a_class_in_place_of_another_starts_from_its_own_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    """jsonargparse would hand on what has the same name: the CNN's widths, Adam's decay, which nobody asked for."""
    network = ["--model.network", "litcnn.networks.WhitenedCNN", "--model.optimizer", "litengine.optim.Muon"]
    with pytest.raises(SystemExit):
        main(["fit", "--config", str(CONFIGS / "images.yaml"), *network, "--print_config"])
    model = yaml.safe_load(capsys.readouterr().out)["model"]
    assert model["network"]["init_args"]["widths"] == [64, 256, 256]
    assert model["optimizer"]["init_args"]["weight_decay"] == 0.0
    assert model["lr_scheduler"]["class_path"] == "torch.optim.lr_scheduler.ReduceLROnPlateau"  # the classifier's own


def make_images(root: Path) -> None:
    """Forty pictures of two classes, of different sizes and modes."""
    random = np.random.default_rng(0)
    for name, brightness in {"cat": 60, "dog": 190}.items():
        (root / name).mkdir(parents=True)
        for number in range(20):
            height, width = random.integers(70, 100, 2)
            pixels = random.normal(brightness, 20, (height, width, 3)).clip(0, 255).astype(np.uint8)
            image = Image.fromarray(pixels)
            image.convert(["RGB", "L", "RGBA", "P"][number % 4]).save(root / name / f"{number}.png")


@pytest.mark.parametrize("overlay", ["with/overfit.yaml", "with/profile.yaml", "with/wandb_and_tensorboard.yaml"])
def test_an_overlay_runs(overlay: str, tmp_path: Path) -> None:
    little = ["--trainer.max_epochs", "3", "--data.batch_size", "32", "--model.network.widths", "[4]"]
    main(["fit", *DIGITS, "--config", str(CONFIGS / overlay), *little, "--trainer.limit_val_batches", "1"])
    epochs = [row for row in rows(only_run(tmp_path)) if row["train/loss"]]
    assert len(epochs) == 3
    if overlay == "with/overfit.yaml":
        assert float(epochs[2]["train/loss"]) < float(epochs[0]["train/loss"])
    if overlay == "with/profile.yaml":
        assert "run_training_batch" in (tmp_path / "runs/fit-profile.txt").read_text()
