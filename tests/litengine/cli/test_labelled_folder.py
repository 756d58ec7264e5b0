import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from project_for_tests import main

from litengine.data import Digits


@pytest.mark.timeout(120)
def test_a_folder_of_class_folders_is_the_test_split() -> None:
    few = ["--trainer.max_epochs", "1", "--trainer.limit_train_batches", "2", "--trainer.limit_val_batches", "1"]
    network = ["--model.network.widths", "[4]", "--model.network.hidden", "8", "--trainer.logger", "false"]
    main(["fit", *few, *network])
    arrays = Digits().load("test")
    assert arrays is not None
    for index in range(80):
        folder = Path("labelled", str(int(arrays.labels[index])))
        folder.mkdir(parents=True, exist_ok=True)
        pixels = np.ascontiguousarray(arrays.images[index].permute(1, 2, 0).numpy())
        Image.fromarray(pixels).save(folder / f"{index}.png")
    main(["test", "--ckpt_path", "best.ckpt", "--images", "labelled", "--trainer.logger", "false"])
    report = Path("best.ckpt").resolve().parents[1] / "report"
    rows = (report / "predictions.csv").read_text().splitlines()[1:]
    assert len(rows) == 80
    right = [row.split(",")[1] == row.split(",")[2] for row in rows]
    assert json.loads((report / "metrics.json").read_text())["test/acc"] == pytest.approx(np.mean(right))
