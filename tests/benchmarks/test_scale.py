from pathlib import Path

import pytest
import scale
from PIL import Image
from scale import Cost

COSTS = dict(zip(scale.STEPS, [Cost(40.0, 2**29), Cost(2.0, 2**28), Cost(5.0, 2**29), Cost(4.0, 2**28)], strict=True))


def test_it_prints_its_table_and_draws_it(capsys: pytest.CaptureFixture[str]) -> None:
    scale.main(["--quick", "--note", "in a test", "--image-size", "32", "--plot", "scale.png"])
    *_, small, large, computed = capsys.readouterr().out.strip().splitlines()
    firsts = [row.split(" | ")[0] for row in (small, large, computed)]
    assert firsts == ["| 20", "| 50", "| 1,000,000, computed"]
    assert Image.open("scale.png").size == (990, 396)
    assert {path.name for path in Path().iterdir()} == {"home", "scale.png"}


def test_the_table_has_rates_and_a_million_at_those_of_the_largest() -> None:
    rows = scale.table({10: COSTS, 100_000: COSTS}, 224)
    assert rows[1][:4] == ["100,000", "15.1 GB", "40.0 s, 2,500/s, 512 MiB", "2.0 s, 50,000/s, 256 MiB"]
    assert rows[2] == ["1,000,000, computed", "151 GB", "6.7 min", "0.3 min", "0.8 min", "0.7 min"]
