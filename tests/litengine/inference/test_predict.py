"""The verb `predict`: its rows against the classifier, its tables and files, and what is refused before the work."""

import csv
import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import checkpoint_of
from PIL import Image
from project_for_tests import CNN, PACKAGE, load
from torch import Tensor

import litengine.inference.predict as module
from litengine.inference.predictor import Predictor


def predict(ckpt_path: str, *arguments: Any, **options: Any) -> None:
    module.predict([ckpt_path], *arguments, trust=[PACKAGE], **options)


NAMES = ["ant", "[red]bee", "Dächs 猫", "dog"]
NETWORK: dict[str, Any] = {"widths": [4], "hidden": 8, "image_size": 8, "num_classes": 4}
UNKNOWN = "is not an image of a known format"


@pytest.fixture(autouse=True)
def checkpoint() -> None:
    """best.ckpt in the working directory, whose answers differ from image to image."""
    torch.manual_seed(0)
    network = CNN(**NETWORK)
    with torch.no_grad():
        network.head[-1].weight.mul_(10)
    spec = {"class_path": f"{PACKAGE}.networks.CNN", "init_args": NETWORK}
    torch.save(checkpoint_of(network, spec, class_names=NAMES, std=[0.1] * 3), "best.ckpt")


def make_images(count: int, folder: str = "pets") -> list[str]:
    random = np.random.default_rng(0)
    Path(folder).mkdir()
    paths = [f"{folder}/{number:03}.png" for number in range(count)]
    for path in paths:
        Image.fromarray(random.integers(0, 256, (9, 8, 3), dtype=np.uint8)).save(path)
    return paths


def read_csv(path: str = "p.csv") -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_each_row_says_what_the_classifier_says(capsys: pytest.CaptureFixture[str]) -> None:
    paths = make_images(10)
    Path(paths[3]).write_text("no image")
    predict("best.ckpt", [paths[9], "pets"], output="p.csv", top_k=3, batch_size=4)
    rows = read_csv()
    assert [row["path"] for row in rows] == [paths[9], *paths[:9]]
    columns = ["path", "prediction", "confidence", "prediction_2", "confidence_2", "prediction_3", "confidence_3"]
    assert list(rows[0]) == [*columns, "error"]
    predictor = load("best.ckpt", device="cpu")
    for row in rows:
        if row["path"] == paths[3]:
            assert list(row.values()) == [paths[3], *[""] * 6, UNKNOWN]
            continue
        for number, (name, confidence) in zip(("", "_2", "_3"), predictor.predict(row["path"]).top(3), strict=True):
            assert row[f"prediction{number}"] == name
            assert float(row[f"confidence{number}"]) == pytest.approx(confidence, abs=2e-6)
        assert row["error"] == ""
    assert len({row["prediction"] for row in rows}) > 2
    printed = capsys.readouterr().out
    assert "10 rows: p.csv\n" in printed
    assert f"1 of 10 images could not be read: {paths[3]}: {UNKNOWN}\n" in printed


def cells(printed: str) -> tuple[list[str], list[list[str]]]:
    """The head and the rows of a printed table, without colours: another test may have made the console a terminal."""
    printed = re.sub(r"\x1b\[[\d;]*m", "", printed)
    (head,) = [line for line in printed.splitlines() if line.startswith("┃")]
    rows = [line.strip("│").split("│") for line in printed.splitlines() if line.startswith("│")]
    return [cell.strip() for cell in head.strip("┃").split("┃")], [[cell.strip() for cell in row] for row in rows]


def test_many_images_have_a_progress_bar_and_their_own_rows(capsys: pytest.CaptureFixture[str]) -> None:
    folder = "a" * 150  # no path is folded
    paths = make_images(520, folder)
    for index in (0, 100, 519):
        Path(paths[index]).write_text("no image")
    predict("best.ckpt", [folder], output="p.csv", batch_size=50)
    printed, error = capsys.readouterr()
    assert "Classifying" in error and "520/520" in error
    assert f"│ {folder}/001.png │" in printed and len(cells(printed)[1]) == 20 and "… and 500 more\n" in printed
    rows = read_csv()
    assert [row["path"] for row in rows] == paths
    assert [index for index, row in enumerate(rows) if row["error"]] == [0, 100, 519]
    predictor = load("best.ckpt", device="cpu")
    for index in (1, 49, 50, 101, 518):
        assert rows[index]["prediction"] == predictor.predict(paths[index]).label


def test_csv_json_and_parquet_say_the_same() -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    paths = make_images(5)
    Path(paths[1]).write_text("no image")
    for suffix in ("csv", "json", "parquet"):
        predict("best.ckpt", ["pets"], output=f"p.{suffix}")
    rows = json.loads(Path("p.json").read_text("utf-8"))
    assert rows[1] == {
        "path": paths[1], "prediction": None, "confidence": None, "prediction_2": None, "confidence_2": None,
        "error": UNKNOWN,
    }  # fmt: skip
    assert rows[0]["prediction"] in NAMES and isinstance(rows[0]["confidence"], float) and rows[0]["error"] is None
    assert parquet.read_table("p.parquet").to_pylist() == rows
    as_text = [{key: "" if value is None else str(value) for key, value in row.items()} for row in rows]
    assert read_csv() == as_text


@pytest.mark.parametrize(
    ("given", "shown", "in_csv"),
    [
        ("\udcff", r"\xff", r"\xff"),  # a byte that is not UTF-8
        ("a\x1b[31mb\n", r"a\x1b[31mb\n", r"a\x1b[31mb\n"),
        ("\u202egpj", r"\u202egpj", r"\u202egpj"),
        ("\ud800", r"\ud800", r"\ud800"),
        ("=1+1", "=1+1", "'=1+1"),
        ("@SUM(A1)", "@SUM(A1)", "'@SUM(A1)"),
        ("-1", "-1", "-1"),  # a number is not a formula
    ],
)
def test_names_of_strangers_have_no_effect(
    given: str, shown: str, in_csv: str, capsys: pytest.CaptureFixture[str]
) -> None:
    content = torch.load("best.ckpt", weights_only=True)
    content["data"]["class_names"] = [given] * 4
    torch.save(content, "best.ckpt")
    (path,) = make_images(1)
    os.rename(path, f"pets/{given}.png" if given != "\ud800" else "pets/a.png")
    for suffix in ("csv", "json"):
        predict("best.ckpt", ["pets"], output=f"p.{suffix}")
    (row,) = read_csv()
    assert row["prediction"] == row["prediction_2"] == in_csv and float(row["confidence"]) > 0
    assert json.loads(Path("p.json").read_text("utf-8"))[0]["prediction"] == shown
    assert given == "\ud800" or row["path"] == f"pets/{shown}.png"
    printed = capsys.readouterr().out
    assert shown in printed and "\x1b[31mb" not in printed


def test_where_no_image_can_be_read_it_fails_and_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    for name in ("a.png", "b.png"):
        Path(name).write_text("no image")
    with pytest.raises(ValueError, match=rf"none of the images could be read: a\.png: {UNKNOWN}, …"):
        predict("best.ckpt", ["a.png", "b.png"], output="p.parquet")
    assert [row[0] for row in cells(capsys.readouterr().out)[1]] == ["a.png", "b.png"]
    table = parquet.read_table("p.parquet")
    assert table["error"].to_pylist() == [UNKNOWN, UNKNOWN] and str(table.schema.field("confidence").type) == "double"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"images": ["pets/0.png"]}, "there is no file or folder pets/0.png: did you mean pets/000.png?"),
        ({"output": "p.txt"}, "output is p.txt: a name that ends with .csv, .json, .parquet is needed"),
        ({"output": "p.parquet"}, 'p.parquet needs pyarrow: pip install -e ".[parquet]"'),
        ({"output": "gone/p.csv"}, "cannot write gone/p.csv: there is no folder gone"),
        ({"top_k": -1}, "top_k is -1: 0 or more is needed"),
        ({"batch_size": -1}, "batch_size is -1: 1 or more is needed"),
    ],
)
def test_wrong_options_are_refused_before_the_checkpoint_is_read(
    options: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    make_images(1)
    with pytest.raises((ValueError, OSError)) as caught:
        predict("gone.ckpt", **{"images": ["pets"], **options})
    assert str(caught.value).startswith(message)


def test_an_interrupted_prediction_leaves_the_older_file(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Predictor, images: Tensor) -> Tensor:
        raise KeyboardInterrupt

    make_images(1)
    Path("p.csv").write_text("older")
    before = sorted(os.listdir())
    monkeypatch.setattr(Predictor, "probabilities", fail)
    with pytest.raises(KeyboardInterrupt):
        predict("best.ckpt", ["pets"], output="p.csv")
    assert Path("p.csv").read_text() == "older"
    assert sorted(os.listdir()) == before


def test_top_k_0_has_the_probability_of_every_class() -> None:
    paths = make_images(3)
    Path(paths[1]).write_text("no image")
    predict("best.ckpt", ["pets"], output="p.csv", top_k=0)
    first, damaged, _ = read_csv()
    columns = [f"probability_{name}" for name in NAMES]
    assert list(first) == ["path", "prediction", "confidence", *columns, "error"]
    expected = load("best.ckpt", device="cpu").predict(paths[0]).probabilities
    assert [float(first[column]) for column in columns] == pytest.approx(expected.tolist(), abs=2e-6)
    assert {damaged[column] for column in columns} == {""}
