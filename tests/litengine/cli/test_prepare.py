import re
from pathlib import Path

import numpy as np
import pytest
from helpers import FakeSource
from PIL import Image
from project_for_tests import ImageData

from litengine.cli.prepare import prepare
from litengine.data import ImageFolder, Stream
from litengine.data.sources import stream_files


def said(capsys) -> list[str]:
    """What was printed, without the seconds."""
    return [re.sub(r"\d+\.\d s\)", "… s)", line) for line in capsys.readouterr().out.splitlines()]


def test_it_fills_the_cache_and_says_where_and_how_much(capsys, monkeypatch):
    for number in range(40):
        path = Path("pictures", "ab"[number % 2], f"{number}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(path)
    prepare(ImageData(ImageFolder("pictures", image_size=8)))
    (cache,) = Path("data/cache").glob("pictures-*")
    size = sum(path.stat().st_size for path in cache.iterdir()) / 1e6
    assert said(capsys) == [
        "ImageFolder: train 32, val 4, test 4 images of 3x8x8, 2 classes",
        f"ready: {cache}, {size:.1f} MB (… s)",
    ]
    monkeypatch.setattr("litengine.data.sources.folder.decode_batches", None)
    again = ImageFolder("pictures", image_size=8)
    again.prepare()
    assert again.load("train").images.shape == (36, 3, 8, 8)


def test_it_writes_a_stream_with_the_splits_of_the_data(capsys):
    data = ImageData(FakeSource(train=(20, 20, 20)), folds=3, fold=1, split_seed=5)
    prepare(data)
    prepare(data, "deep/er/stream")
    prepare(data, "deep/er/stream")
    counts = "FakeSource: train 40, val 20, test 15 images of 3x8x8, 3 classes"
    flag = "train from it with: --data.source litengine.data.Stream --data.source.root deep/er/stream"
    assert said(capsys) == [
        *(counts, "ready: there is nothing to keep on the disk (… s)"),
        *(counts, "stream: deep/er/stream, 0.0 MB in 3 shards (… s)", flag),
        *(counts, "stream: deep/er/stream, 0.0 MB in 3 shards (there already)", flag),
    ]
    part = data.subset("val")
    assert Stream("deep/er/stream").load("val").labels.tolist() == part.arrays.labels[part.indices].tolist()


def test_what_no_stream_can_be_made_of_is_refused(monkeypatch):
    with pytest.raises(ValueError, match="FakeSource has no training images"):
        prepare(ImageData(FakeSource(train=None, val=(3, 3), names="ab", test=None)), "stream")
    monkeypatch.setattr(stream_files, "find_spec", lambda name: None)
    source = FakeSource()
    with pytest.raises(ValueError, match=r"pip install -e '\.\[stream\]'"):
        prepare(ImageData(source), "stream")
    assert source.prepared == 0
