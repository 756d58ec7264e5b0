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


def test_medians_and_ratios_have_their_ranges() -> None:
    assert middle([9.0, 1.0, 2.5], "{:.1f}", "ms") == "2.5 ms (1.0 to 9.0)"
    # medians 4 and 2; rounds 1/2, 4/1, 5/4: not the median of the rounds' ratios, 1.25
    assert ratio([1, 4, 5], [2, 1, 4]) == "**2.00** (0.50 to 4.00)"


def test_a_table_replaces_the_one_between_its_markers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.md"
    marker = "<!-- written by benchmarks/{} -->\nold\n<!-- end -->\n"
    page.write_text("# Title\n" + "text\n".join(marker.format(name) for name in ("before", "here", "after")))
    for value in ("1", "2"):
        publish("here", "Facts.", ("what", "value"), [("x", value)], page)
    table = "Facts.\n\n| what | value |\n| --- | --: |\n| x | 2 |\n"
    assert table in capsys.readouterr().out
    expected = f"# Title\n{marker.format('before')}text\n{marker.format('here')}text\n{marker.format('after')}"
    assert page.read_text() == expected.replace("here -->\nold\n", f"here -->\n{table}")
    with pytest.raises(ValueError, match="<!-- written by benchmarks/elsewhere -->"):
        publish("elsewhere", "Facts.", ("what",), [], page)


def test_the_machine_is_described_without_its_paths() -> None:
    line = describe(note="the other core busy")
    assert "\n" not in line and str(Path(__file__).parents[2]) not in line
    for part in ("commit ", "CPU", "cores", "the other core busy", "torch ", "lightning "):
        assert part in line
