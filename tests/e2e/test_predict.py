"""`predict` as a user runs it: against `test`, on files of every kind, and interrupted."""

import csv
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

import litcnn
from litcnn.__main__ import main
from litengine.data import Digits

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory with a fit of digits.yaml, two epochs long, and its test split: test/<index>-<label>.png."""
    home = tmp_path_factory.mktemp("home")
    (home / "test").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        configs = ["--config", str(CONFIGS / "digits.yaml"), "--config", str(CONFIGS / "with/no_tracker.yaml")]
        main(["fit", *configs, "--trainer.max_epochs", "2"])
        arrays = Digits().load("test")
        assert arrays is not None
        for index, (image, label) in enumerate(zip(arrays.images.numpy(), arrays.labels.tolist(), strict=True)):
            Image.fromarray(image.transpose(1, 2, 0)).save(f"test/{index:03}-{label}.png")
    return home


@pytest.fixture
def here(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(home)
    return home


def predicted(*words: str) -> list[dict[str, Any]]:
    main(["predict", "--ckpt_path", "best.ckpt", "--output", "p.json", "--images", *words])
    rows: list[dict[str, Any]] = json.loads(Path("p.json").read_text("utf-8"))
    return rows


@pytest.mark.parametrize("tta", ["none", "flip+shift"])
def test_predictions_equal_those_of_the_test_image_for_image(here: Path, tta: str) -> None:
    content = torch.load("best.ckpt", weights_only=True)
    content["config"]["model"]["tta"] = content["data"]["tta"] = tta  # of `test` and of `predict`
    torch.save(content, "tta.ckpt")
    main(["test", "--ckpt_path", "tta.ckpt", "--trainer.default_root_dir", "tested"])
    with open("tested/report/predictions.csv", encoding="utf-8", newline="") as file:
        tested = list(csv.DictReader(file))
    main(["predict", "--ckpt_path", "tta.ckpt", "--output", "p.json", "--top_k", "10", "--images", "test"])
    rows = json.loads(Path("p.json").read_text())
    assert len(rows) == len(tested) == 360
    assert [row["prediction"] for row in rows] == [row["prediction"] for row in tested]
    for row, test in zip(rows, tested, strict=True):
        assert row["confidence"] == pytest.approx(float(test["confidence"]), abs=2e-6)  # six digits of each
    right = np.mean([row["prediction"] == row["path"][-5] for row in rows])
    metrics = json.loads(Path("tested/report/metrics.json").read_text())
    assert right == pytest.approx(metrics["test/acc"]) and right > 0.7

    # all ten probabilities, against the classifier on the same pixels
    classifier, arrays = litcnn.load("tta.ckpt", device="cpu").classifier, Digits().load("test")
    assert arrays is not None and classifier.tta == tta
    with torch.inference_mode():
        expected = classifier.infer(arrays.images).softmax(1)
    for row, probabilities in zip(rows, expected, strict=True):
        ranks = ["", *(f"_{rank}" for rank in range(2, 11))]
        found = {int(row[f"prediction{rank}"]): row[f"confidence{rank}"] for rank in ranks}
        assert [found[label] for label in range(10)] == pytest.approx(probabilities.tolist(), abs=2e-6)


def test_files_of_every_kind_and_the_bad_among_them(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    digit = Image.open("test/000-" + next(Path("test").glob("000-*")).stem[-1] + ".png")
    bad = Path("kinds/bad ünïcode")
    bad.mkdir(parents=True)
    for mode in ("L", "P", "RGBA", "CMYK", "1", "I;16"):
        suffix = "tif" if mode == "CMYK" else "png"
        image = (
            Image.fromarray(np.asarray(digit.convert("L"), np.uint16) * 257) if mode == "I;16" else digit.convert(mode)
        )
        image.save(f"kinds/{mode.replace(';', '')}.{suffix}")
    Image.new("RGB", (1, 1)).save("kinds/one pixel.webp")
    Image.new("L", (1, 200_000)).save(bad / "thread.png")
    (bad / "empty.jpg").touch()
    (bad / "text.jpg").write_text("This is a text.")
    (bad / "cut.png").write_bytes(Path(digit.filename).read_bytes()[:200])
    (bad / "notes.txt").write_text("not an image, and not called one")
    rows = {Path(row["path"]).name: row for row in predicted("kinds", "test/000-?.png")}
    assert list(rows) == sorted(rows, key=lambda name: (rows[name]["path"].startswith("test"), rows[name]["path"]))
    assert {name for name, row in rows.items() if row["error"]} == {"cut.png", "empty.jpg", "text.jpg", "thread.png"}
    assert rows["thread.png"]["error"] == "is 1x200000, too long for a shorter side of 32 pixels"
    assert "truncated" in rows["cut.png"]["error"]
    same = [rows[name] for name in ("L.png", "RGBA.png", "I16.png", Path(digit.filename).name)]
    assert len({(row["prediction"], row["confidence"]) for row in same}) == 1  # grey, so the same pixels in all
    printed = capsys.readouterr().out
    assert "4 of 12 images could not be read" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "arguments are required: "),
        (["--ckpt_path", "best.ckpt"], "arguments are required: images"),
        (["--ckpt_path", "best.ckpt", "--images", "tset"], "there is no file or folder tset: did you mean test"),
        (["--ckpt_path", "best.ckpt", "--images", "test/*.jpg"], "no image matches test/*.jpg"),
        (["--ckpt_path", "bets.ckpt", "--images", "test"], "no checkpoint at bets.ckpt: there are best.ckpt"),
        (["--ckpt_path", "best.ckpt", "--images", "test", "--output", "p.xls"], "output is p.xls: a name that ends"),
        (["--ckpt_path", "best.ckpt", "--images", "test", "--top_k", "two"], "--top_k is two: Expected a int"),
        (["--ckpt_path", "best.ckpt", "--image", "test"], "--images"),
    ],
)
def test_a_mistake_is_one_line(
    here: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["predict", *arguments])
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert message in error


def test_help_needs_no_torch() -> None:
    code = "import sys\nfrom litcnn.__main__ import main\ntry: main(['predict', '--help'])\nexcept SystemExit: ...\n"
    code += "print('torch' in sys.modules, 'PIL' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Image files, folders (all images below them) and globs" in " ".join(done.stdout.split())
    assert done.stdout.splitlines()[-1] == "False False"


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
        workers = wait_for_children(program.pid)
        time.sleep(1)
        for pid in (program.pid, *workers):  # as a terminal does: to the whole group
            os.kill(pid, signal.SIGINT)
        _, error = program.communicate(timeout=30)
    assert program.returncode == 130
    assert "Traceback" not in error
    end = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() for pid in workers):  # one that was just being started ends by itself
        assert time.monotonic() < end
        time.sleep(0.1)
    assert not list(tmp_path.glob("*p.csv*"))


def wait_for_children(pid: int) -> list[int]:
    end = time.monotonic() + 120
    while time.monotonic() < end:
        children = [
            int(child) for path in Path(f"/proc/{pid}/task").glob("*/children") for child in path.read_text().split()
        ]
        decoding = [child for child in children if b"pixels.py" in Path(f"/proc/{child}/cmdline").read_bytes()]
        if decoding:
            return decoding
        time.sleep(0.05)
    raise TimeoutError("no process decodes")
