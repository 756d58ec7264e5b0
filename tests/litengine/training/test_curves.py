import io

import pytest
from PIL import Image

from litengine.training import curves


def rows(epochs: int) -> list[dict[str, str]]:
    table = []
    for epoch in range(epochs):
        values = {"train/loss": 1 / (epoch + 1), "val/loss": 1.0, "train/acc": 0.5, "val/acc": 0.4, "lr": 0.1}
        table.append({"epoch": str(epoch), "step": str(10 * epoch + 9), **{k: str(v) for k, v in values.items()}})
    return table


def test_three_curves_stand_one_below_the_other():
    one = Image.open(io.BytesIO(curves.stacked(rows(3))))
    assert one.height > one.width > 400
    assert len(set(one.convert("L").getdata())) > 20  # something is drawn


def test_before_the_first_epoch_ends_there_is_no_picture():
    assert curves.stacked(rows(0)) is None


@pytest.mark.parametrize("content", [b"", b"epoch,step\n0", b"\xff\xfe\x00", None])
def test_a_damaged_table_does_not_stop_the_run(content, tmp_path):
    from types import SimpleNamespace

    if content is not None:
        (tmp_path / "metrics.csv").write_bytes(content)
    trainer = SimpleNamespace(default_root_dir=str(tmp_path), is_global_zero=True, current_epoch=1)
    curves.DrawCurves().on_fit_end(trainer, None)
    assert not (tmp_path / "curves.png").exists()
