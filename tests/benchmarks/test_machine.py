from pathlib import Path

import pytest
from machine import alternate, describe, middle, publish, ratio


def test_sides_take_turns_and_every_round_is_in_the_reverse_order_of_the_last() -> None:
    order: list[str] = []

    def side(name: str) -> int:
        order.append(name)
        return len(order)

    found = alternate("sides", {name: lambda name=name: side(name) for name in "abc"}, rounds=3)
    assert "".join(order) == "abccbaabc"
    assert found == {"a": [1, 6, 7], "b": [2, 5, 8], "c": [3, 4, 9]}


def test_the_middle_is_the_median_with_the_range() -> None:
    assert middle([9.0, 1.0, 2.5], "{:.1f}", "ms") == "2.5 ms (1.0 to 9.0)"
    assert middle([1000.0, 3000.0], "{:,.0f}") == "2,000 (1,000 to 3,000)"


def test_the_ratio_is_that_of_the_medians_and_its_range_that_of_single_rounds() -> None:
    # medians 4 and 2; rounds 1/2, 4/1, 5/4: not the median of the rounds' ratios, 1.25
    assert ratio([1, 4, 5], [2, 1, 4]) == "**2.00** (0.50 to 4.00)"
    assert ratio([0.001, 0.002], [1, 1]) == "**0.0015** (0.001 to 0.002)"
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        ratio([1, 2], [1])


def test_a_table_is_printed_and_replaces_the_one_between_its_markers(
    page: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for value in ("1", "2"):  # again and again
        publish("here", "Facts.", ("what", "value"), [("x", value)], page)
    table = "Facts.\n\n| what | value |\n| --- | --: |\n| x | 2 |\n"
    assert table in capsys.readouterr().out
    expected = (
        f"text\n<!-- written by benchmarks/here -->\n{table}<!-- end -->\n<!-- written by benchmarks/after -->\nold\n"
    )
    assert expected in page.read_text()
    assert page.read_text().startswith("# Title\n<!-- written by benchmarks/before -->\nold\n<!-- end -->\ntext\n")


def test_a_page_without_the_markers_is_left_alone_and_told_what_it_lacks(page: Path) -> None:
    before = page.read_text()
    with pytest.raises(ValueError, match="<!-- written by benchmarks/elsewhere -->"):
        publish("elsewhere", "Facts.", ("what",), [], page)
    assert page.read_text() == before


def test_the_machine_is_described_in_one_line_that_names_no_path_of_it() -> None:
    line = describe(note="the other core busy")
    assert "\n" not in line and str(Path.home()) not in line and str(Path(__file__).parents[2]) not in line
    for part in ("commit ", "CPU", "cores", "the other core busy", "torch ", "lightning "):
        assert part in line
