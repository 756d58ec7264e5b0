import time
from pathlib import Path

import numpy as np
import pytest
import scale
from machine import ROOT
from PIL import Image
from scale import Cost

COSTS = dict(zip(scale.STEPS, [Cost(40.0, 2**29), Cost(2.0, 2**28), Cost(5.0, 2**29), Cost(4.0, 2**28)], strict=True))


def test_it_prints_its_table_and_draws_it(capsys: pytest.CaptureFixture[str]) -> None:
    scale.main(["--quick", "--note", "in a test", "--image-size", "32", "--plot", "scale.png"])
    facts, _, columns, _, *rows = capsys.readouterr().out.strip().splitlines()
    assert "in a test" in facts and columns.count("|") == 7
    assert [row.split(" | ")[0] for row in rows] == ["| 20", "| 50", "| 1,000,000, computed"]
    with Image.open("scale.png") as picture:
        assert picture.size == (990, 396)
    assert {path.name for path in Path().iterdir()} == {"home", "scale.png"}


def test_the_table_has_rates_and_a_million_at_those_of_the_largest() -> None:
    rows = scale.table({10: COSTS, 100_000: COSTS}, 224)
    assert rows[1][:4] == ["100,000", "15.1 GB", "40.0 s, 2,500/s, 512 MiB", "2.0 s, 50,000/s, 256 MiB"]
    assert rows[2] == ["1,000,000, computed", "151 GB", "6.7 min", "0.3 min", "0.8 min", "0.7 min"]
    assert len(scale.table({1_000_000: COSTS}, 224)) == 1


def test_the_cost_of_a_step_is_that_of_its_own_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def step(size: int) -> None:
        filled = np.ones(size, dtype=np.uint8)
        time.sleep(0.2)
        del filled

    monkeypatch.setitem(scale.STEPS, "fill the cache", step)
    before = scale.own_memory()
    small, large = (scale.cost("fill the cache", size) for size in (0, 100 * 2**20))
    assert 0.2 <= large.seconds < 5
    assert 95 * 2**20 < large.memory - small.memory < 130 * 2**20
    assert abs(scale.own_memory() - before) < 20 * 2**20


def test_a_step_that_fails_is_no_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(scale.STEPS, "fill the cache", lambda _: 1 / 0)
    with pytest.raises(RuntimeError, match="fill the cache failed"):
        scale.cost("fill the cache", 32)


def test_its_tables_have_their_places_in_the_docs() -> None:
    page = (ROOT / "docs/scale.md").read_text()
    for size in (64, 224):
        assert f"<!-- written by benchmarks/scale.py {size} pixels -->" in page
