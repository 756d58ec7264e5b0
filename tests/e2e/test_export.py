"""`export` as a user runs it: after a fit, by its checkpoint alone."""

import json
from pathlib import Path

import onnxruntime
import pytest
import torch
from program import only_run, rows

import litcnn
from litcnn.__main__ import main
from litengine.data import Digits


def test_it_writes_into_the_run(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    main(["export", "--ckpt_path", "best.ckpt", "--format", "safetensors"])
    printed, chatter = capfd.readouterr()
    assert printed.count("\n") == 3 and chatter == ""
    assert printed.startswith(f"{only_run()}/export/best.safetensors")
    assert (only_run() / "export/best.safetensors").is_file()


def test_it_answers_as_the_checkpoint_and_has_its_score(here: Path, tmp_path: Path) -> None:
    main(["export", "--ckpt_path", "best.ckpt", "--output", str(tmp_path / "digits.onnx")])
    session = onnxruntime.InferenceSession(tmp_path / "digits.onnx")
    best = max(float(row["val/acc"]) for row in rows(only_run()) if row["val/acc"])
    assert json.loads(session.get_modelmeta().custom_metadata_map["metrics"]) == {"val/acc": pytest.approx(best)}
    arrays = Digits().load("test")
    found = torch.from_numpy(session.run(None, {"images": arrays.images[:200].numpy()})[0])
    expected = litcnn.load("best.ckpt", device="cpu").probabilities(arrays.images[:200])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
