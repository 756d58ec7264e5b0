"""`export` as a user runs it: after a fit, by its checkpoint alone."""

import json
from pathlib import Path

import onnxruntime
import pytest
import torch
from program import only_run, refusal, rows

import litcnn
from litcnn.__main__ import main
from litengine.data import Digits

FORMATS = [("onnx", "onnx", "opset"), ("torch", "pt2", "torch"), ("safetensors", "safetensors", "tensors")]


@pytest.mark.parametrize(("format", "suffix", "word"), FORMATS)
def test_it_writes_into_the_run(
    here: Path, capfd: pytest.CaptureFixture[str], format: str, suffix: str, word: str
) -> None:
    run = only_run()
    main(["export", "--ckpt_path", "best.ckpt", "--format", format])
    printed, chatter = capfd.readouterr()
    lines = printed.splitlines()
    assert len(lines) == 3 and chatter == ""
    assert lines[0].startswith(f"{run}/export/best.{suffix}") and word in lines[0]
    assert (run / "export" / f"best.{suffix}").is_file()


def test_it_answers_as_the_checkpoint_and_has_its_score(here: Path, tmp_path: Path) -> None:
    content = torch.load("best.ckpt", weights_only=True)
    content["data"]["tta"] = "flip"
    torch.save(content, tmp_path / "flip.ckpt")
    main(["export", "--ckpt_path", str(tmp_path / "flip.ckpt"), "--output", str(tmp_path / "digits.onnx")])
    session = onnxruntime.InferenceSession(tmp_path / "digits.onnx")
    about = session.get_modelmeta().custom_metadata_map
    best = max(float(row["val/acc"]) for row in rows(only_run()) if row["val/acc"])
    assert json.loads(about["metrics"]) == {"val/acc": pytest.approx(best)} and best > 0.5
    assert json.loads(about["class_names"]) == [str(digit) for digit in range(10)] and about["tta"] == "flip"
    arrays = Digits().load("test")
    assert arrays is not None
    found = torch.from_numpy(session.run(None, {"images": arrays.images[:200].numpy()})[0])
    expected = litcnn.load(tmp_path / "flip.ckpt", device="cpu").probabilities(arrays.images[:200])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--format", "tflite"], "--format is tflite: Expected a Literal['onnx', 'torch', 'safetensors']"),
        (["--output", "no/best.onnx"], "--output no/best.onnx: there is no folder no, make it first"),
    ],
)
def test_a_mistake_is_one_line(here: Path, capfd: pytest.CaptureFixture[str], options: list[str], message: str) -> None:
    before = sorted(here.rglob("*"))
    error = refusal(capfd, "export", "--ckpt_path", "best.ckpt", *options)
    assert error.startswith(f"error: {message}") and error.count("\n") == 1
    assert sorted(here.rglob("*")) == before
