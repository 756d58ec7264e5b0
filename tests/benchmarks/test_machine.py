from pathlib import Path

import pytest
from machine import alternate, describe, middle, publish, ratio


def test_sides_take_turns_and_numbers_have_their_ranges() -> None:
    order: list[str] = []

    def side(name: str) -> int:
        order.append(name)
        return len(order)

    found = alternate("sides", {name: lambda name=name: side(name) for name in "abc"}, rounds=3)
    assert "".join(order) == "abccbaabc" and found == {"a": [1, 6, 7], "b": [2, 5, 8], "c": [3, 4, 9]}
    assert middle([9.0, 1.0, 2.5], "{:.1f}", "ms") == "2.5 ms (1.0 to 9.0)"
    # medians 4 and 2; rounds 1/2, 4/1, 5/4: not the median of the rounds' ratios, 1.25
    assert ratio([1, 4, 5], [2, 1, 4]) == "**2.00** (0.50 to 4.00)"


def test_a_table_replaces_the_one_between_its_markers(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    marker = "<!-- written by benchmarks/{} -->\nold\n<!-- end -->\n"
    before, here, after = (marker.format(name) for name in ("before", "here", "after"))
    page.write_text(f"# Title\n{before}text\n{here}{after}")
    for value in ("1", "2"):
        publish("here", "Facts.", ("what", "value"), [("x", value)], page)
    table = "Facts.\n\n| what | value |\n| --- | --: |\n| x | 2 |\n"
    assert page.read_text() == f"# Title\n{before}text\n{here}{after}".replace(here, here.replace("old\n", table))
    with pytest.raises(ValueError, match="<!-- written by benchmarks/elsewhere -->"):
        publish("elsewhere", "Facts.", ("what",), [], page)
    assert str(Path(__file__).parents[2]) not in describe()  # no path of the machine is published
