"""`predict` as a user runs it: against `test`, on files of every kind, and interrupted."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from program import PREDICTIONS, wait_for
from program import rows as table

import litcnn
from litcnn.__main__ import main
from litengine.data import Digits


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The test split as files: <index>-<label>.png."""
    folder = tmp_path_factory.mktemp("digits")
    arrays = Digits().load("test")
    for index, (image, label) in enumerate(zip(arrays.images.numpy(), arrays.labels.tolist(), strict=True)):
        Image.fromarray(image.transpose(1, 2, 0)).save(folder / f"{index:03}-{label}.png")
    return folder


def predicted(tmp_path: Path, *words: Any) -> list[dict[str, Any]]:
    main(["predict", "--output", str(tmp_path / "p.json"), *map(str, words)])
    rows: list[dict[str, Any]] = json.loads((tmp_path / "p.json").read_text("utf-8"))
    return rows


def test_predictions_equal_those_of_the_test_image_for_image(here: Path, digits: Path, tmp_path: Path) -> None:
    content = torch.load("best.ckpt", weights_only=True)
    content["config"]["model"]["tta"] = content["data"]["tta"] = "flip"  # of `test` and of `predict`
    checkpoint, tested = tmp_path / "tta.ckpt", tmp_path / "tested"
    torch.save(content, checkpoint)
    main(["test", "--ckpt_path", str(checkpoint), "--trainer.default_root_dir", str(tested)])
    expected = table(tested, PREDICTIONS)
    rows = predicted(tmp_path, "--ckpt_path", checkpoint, "--top_k", 10, "--images", digits)
    assert len(rows) == len(expected) == 360
    assert [row["prediction"] for row in rows] == [row["prediction"] for row in expected]
    for row, test in zip(rows, expected, strict=True):
        assert row["confidence"] == pytest.approx(float(test["confidence"]), abs=2e-6)  # six digits of each
    right = np.mean([row["prediction"] == row["path"][-5] for row in rows])
    metrics = json.loads((tested / "report/metrics.json").read_text())
    assert right == pytest.approx(metrics["test/acc"]) and right > 0.7

    # all ten probabilities, against the classifier on the same pixels
    classifier, arrays = litcnn.load(checkpoint, device="cpu").classifier, Digits().load("test")
    assert classifier.tta == "flip"
    with torch.inference_mode():
        probabilities = classifier.infer(arrays.images).softmax(1)
    for row, of_image in zip(rows, probabilities.tolist(), strict=True):
        ranks = ["", *(f"_{rank}" for rank in range(2, 11))]
        found = {int(row[f"prediction{rank}"]): row[f"confidence{rank}"] for rank in ranks}
        assert [found[label] for label in range(10)] == pytest.approx(of_image, abs=2e-6)


def test_files_of_every_kind_and_the_bad_among_them(
    here: Path, digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (path,) = digits.glob("000-*")
    digit, kinds = Image.open(path), tmp_path / "kinds"
    bad = kinds / "bad ünïcode"
    bad.mkdir(parents=True)
    for mode in ("L", "P", "RGBA", "CMYK", "1"):
        digit.convert(mode).save(kinds / f"{mode}.{'tif' if mode == 'CMYK' else 'png'}")
    Image.fromarray(np.asarray(digit.convert("L"), np.uint16) * 257).save(kinds / "I16.png")
    Image.new("RGB", (1, 1)).save(kinds / "one pixel.webp")
    Image.new("L", (1, 200_000)).save(bad / "thread.png")
    (bad / "empty.jpg").touch()
    (bad / "text.jpg").write_text("This is a text.")
    (bad / "cut.png").write_bytes(path.read_bytes()[:200])
    (bad / "notes.txt").write_text("not an image, and not named like one")
    found = predicted(tmp_path, "--ckpt_path", "best.ckpt", "--images", kinds, path)
    paths = [row["path"] for row in found]
    assert paths == [*sorted(paths[:-1]), str(path)]
    rows = {Path(row["path"]).name: row for row in found}
    assert {name for name, row in rows.items() if row["error"]} == {"cut.png", "empty.jpg", "text.jpg", "thread.png"}
    assert rows["thread.png"]["error"] == "is 1x200000, too long for 32x32 pixels"
    assert "truncated" in rows["cut.png"]["error"]
    same = [rows[name] for name in ("L.png", "RGBA.png", "I16.png", path.name)]
    assert len({(row["prediction"], row["confidence"]) for row in same}) == 1  # grey, so the same pixels in all
    assert "4 of 12 images could not be read" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="finds its processes in /proc")
def test_ctrl_c_ends_all_processes_and_leaves_nothing(here: Path, tmp_path: Path) -> None:
    folder = tmp_path / "large"
    folder.mkdir()
    Image.effect_noise((3000, 3000), 50).save(folder / "0.jpg")
    for number in range(1, 800):  # minutes of decoding
        os.link(folder / "0.jpg", folder / f"{number}.jpg")
    options = ["--ckpt_path", "best.ckpt", "--images", str(folder), "--output", str(tmp_path / "p.csv")]
    command = [sys.executable, "-m", "litcnn", "predict", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as program:
        wait_for(lambda: len(decoding(program.pid)) > 1, program)
        time.sleep(1)
        workers = decoding(program.pid)
        for pid in (program.pid, *workers):  # as a terminal does: to the whole group
            os.kill(pid, signal.SIGINT)
        _, error = program.communicate(timeout=60)
    assert program.returncode == 130
    assert "Traceback" not in error
    # a process that was just being started ends by itself
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))
    assert not list(tmp_path.glob("*p.csv*"))


def decoding(pid: int) -> list[int]:
    """The processes that a process has started to decode images."""
    children = [path.read_text().split() for path in Path(f"/proc/{pid}/task").glob("*/children")]
    pids = [int(child) for each in children for child in each]
    return [child for child in pids if b"predict" in Path(f"/proc/{child}/cmdline").read_bytes()]
