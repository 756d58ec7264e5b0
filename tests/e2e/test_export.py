"""`export` as a user runs it: after a fit, by its checkpoint alone."""

import csv
import json
from pathlib import Path

import onnxruntime
import pytest
import torch

import litcnn
from litcnn.__main__ import main
from litengine.data import Digits

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory with a short fit whose best weights are averages, with test-time augmentation."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        configs = [
            word for name in ("digits", "with/no_tracker") for word in ("--config", str(CONFIGS / f"{name}.yaml"))
        ]
        short = ["--trainer.max_epochs", "2", "--model.network.init_args.widths", "[8, 16, 16]", "--model.tta", "flip"]
        average = ["--trainer.callbacks+", "lightning.pytorch.callbacks.EMAWeightAveraging"]
        main(["fit", *configs, *short, *average, "--trainer.callbacks.init_args.decay", "0.8"])
    return home


@pytest.fixture
def here(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(home)
    return home


@pytest.mark.parametrize(
    ("format", "suffix", "says"),
    [("onnx", "onnx", "opset"), ("torch", "pt2", "torch"), ("safetensors", "safetensors", "tensors")],
)
def test_every_format_in_the_run(
    here: Path, capfd: pytest.CaptureFixture[str], format: str, suffix: str, says: str
) -> None:
    (run,) = here.glob("runs/digits/*")
    main(["export", "--ckpt_path", "best.ckpt", "--format", format])
    printed, chatter = capfd.readouterr()
    lines = printed.splitlines()
    assert len(lines) == 3 and chatter == ""
    assert lines[0].startswith(f"runs/digits/{run.name}/export/best.{suffix}") and says in lines[0]
    assert "on 64 random patterns (--images FILE" in lines[1]
    assert (run / "export" / f"best.{suffix}").is_file()


def test_it_answers_as_the_checkpoint_and_knows_its_score(here: Path) -> None:
    main(["export", "--ckpt_path", "best.ckpt", "--output", "digits.onnx"])
    session = onnxruntime.InferenceSession("digits.onnx")
    known = session.get_modelmeta().custom_metadata_map
    (run,) = here.glob("runs/digits/*")
    with (run / "metrics.csv").open() as file:
        best = max(float(row["val/acc"]) for row in csv.DictReader(file) if row["val/acc"])
    assert json.loads(known["metrics"]) == {"val/acc": pytest.approx(best)} and best > 0.5
    assert json.loads(known["class_names"]) == [str(digit) for digit in range(10)]
    assert known["checkpoint"] == f"digits/{run.name}/best.ckpt" and known["tta"] == "flip"
    arrays = Digits().load("test")
    assert arrays is not None
    found = torch.from_numpy(session.run(None, {"images": arrays.images[:200].numpy()})[0])
    expected = litcnn.load("best.ckpt", device="cpu").probabilities(arrays.images[:200])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--format", "tflite"], "--format is tflite: Expected a Literal['onnx', 'torch', 'safetensors']"),
        (["--output", "no/best.onnx"], "cannot write no/best.onnx: there is no folder no"),
        (["--format", "safetensors", "--tolerance", "1e-12"], "the export differs from the checkpoint by"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(
    here: Path, capfd: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    before = sorted(here.rglob("*"))
    with pytest.raises(SystemExit) as stopped:
        main(["export", "--ckpt_path", "best.ckpt", *options])
    assert stopped.value.code == 2
    printed, said = capfd.readouterr()
    assert printed == "" and said.startswith(f"error: {message}") and said.count("\n") == 1
    assert sorted(here.rglob("*")) == before
