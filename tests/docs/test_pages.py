"""README.md and the pages in docs/: the code on them works as it stands there, and none is left out."""

import copy
import importlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from pages import blocks, commands, pages
from program import rows
from torch import nn
from walk import Walk, is_run, make_home, write_files

import litcnn
import litengine.data
from litcnn.__main__ import main
from litengine.training.run_directory import runs_in

README = "README.md"
OF_README = [words for block in blocks(README) if is_run(block) for words in commands(block)]


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("page", [pytest.param(page, marks=[pytest.mark.slow] * (page == README)) for page in pages()])
def test_the_code_on_a_page(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_home(tmp_path)
    write_files(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)  # as main.py does
    walk = Walk(monkeypatch)
    for block in blocks(page):
        walk.run(block, but=[] if page == README else OF_README)
    CHECKS.get(page, lambda: None)()


def table_and_arrays_are_read() -> None:
    table = litengine.data.CSV("path/to/table.csv", image_size=64)
    table.prepare()
    listed = Path("path/to/table.csv").read_text().count(",test")
    assert len(table.load("test").labels) == listed > 0 and table.class_names == ["cat", "dog", "hen"]
    source: Any = importlib.import_module("my_data").Npz("path/to/digits.npz")
    assert source.load("test").images.shape == (360, 3, 32, 32) and source.load("val") is None
    assert litcnn.load("best.ckpt", trust=["my_data"]).class_names == [str(digit) for digit in range(10)]


def loss_and_metric_are_those_of_the_formulas() -> None:
    losses: Any = importlib.import_module("my_losses")
    logits, labels = torch.tensor([[0.0, 0.0], [math.log(3), 0.0]]), [1, 0]  # probabilities 1/2 and 3/4
    expected = (0.5**2 * math.log(2) + 0.25**2 * math.log(4 / 3)) / 2
    assert float(losses.Focal()(logits, torch.tensor(labels))) == pytest.approx(expected)
    settings = [yaml.safe_load((run / "config.yaml").read_text()) for run in runs_in("runs")]
    used = [given["model"].get("loss") for given in settings]
    arguments = {loss["class_path"]: loss["init_args"] for loss in used if loss}
    assert arguments.keys() == {"my_losses.Focal", "torch.nn.MultiMarginLoss"}
    assert arguments["my_losses.Focal"] == {"gamma": 1.5}

    assert "val/f1" in [given["checkpoints"]["monitor"] for given in settings]


def it_stops() -> None:
    stop = ["--trainer.callbacks+", "my_callbacks.StopAt", "--trainer.callbacks.accuracy", "0"]
    few = ["--trainer.limit_train_batches", "1", "--trainer.limit_val_batches", "1", "--trainer.max_epochs", "9"]
    main(["fit", "--config", "configs/digits.yaml", *stop, *few])
    assert rows(Path("best.ckpt").resolve().parents[1])[-1]["epoch"] == "0"


def steps_and_rates_are_right() -> None:
    optim: Any = importlib.import_module("my_optim")
    weights = torch.nn.Parameter(torch.tensor([1.0, -2.0, 4.0]))
    optimizer = optim.SignSGD([weights], lr=0.5, weight_decay=0.5)
    weights.grad = torch.tensor([3.0, -1e-9, 0.0])
    schedule = optim.Linear(optimizer, total_steps=4)
    rates = []
    for _ in range(4):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
        if len(rates) == 1:
            assert weights.tolist() == [0.25, -1.0, 3.0]
    assert rates == [0.5, 0.375, 0.25, 0.125]


def two_optimizers_step_as_one() -> None:
    mine: Any = importlib.import_module("my_model")

    def made(shares: bool) -> tuple[nn.Module, list[torch.optim.Optimizer]]:
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
        optimizers = [
            torch.optim.SGD(network[0].parameters(), lr=0.1, momentum=0.9),
            torch.optim.AdamW(network[1].parameters(), lr=0.1),
        ]
        return network, [mine.Both(*optimizers)] if shares else optimizers

    def step(network: nn.Module, optimizers: list[torch.optim.Optimizer]) -> torch.Tensor:
        network.zero_grad()
        network(torch.arange(12.0).view(4, 3)).square().sum().backward()
        for optimizer in optimizers:
            optimizer.step()
        return torch.cat([parameter.detach().flatten() for parameter in network.parameters()])

    apart, together, resumed = made(False), made(True), made(True)
    assert torch.equal(step(*apart), step(*together))
    resumed[0].load_state_dict(together[0].state_dict())
    resumed[1][0].load_state_dict(copy.deepcopy(together[1][0].state_dict()))
    assert torch.equal(step(*together), step(*resumed))
    names = {name for run in runs_in("runs") for name in torch.load(run / "checkpoints/last.ckpt")["state_dict"]}
    assert not [name for name in names if "teacher" in name]


CHECKS: dict[str, Callable[[], None]] = {
    "docs/your-dataset.md": table_and_arrays_are_read,
    "docs/your-loss.md": loss_and_metric_are_those_of_the_formulas,
    "docs/your-callback.md": it_stops,
    "docs/your-optimizer.md": steps_and_rates_are_right,
    "docs/your-training-step.md": two_optimizers_step_as_one,
}
