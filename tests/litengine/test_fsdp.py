"""Weights spread over processes give the weights of one process; on CPUs, over gloo."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import FakeSource, trainer
from lightning.pytorch import Callback, seed_everything
from processes import StopAfter, together
from torch import Tensor, nn
from torch.optim import SGD
from torch.optim.lr_scheduler import OneCycleLR, ReduceLROnPlateau

from litengine import fsdp
from litengine.training import CheckNumerics, Checkpoints, ExactResume, StopOnSignal
from litengine.training.checkpoint_files import CheckpointFiles
from litcnn.model import ImageClassifier
from litcnn.data import ImageData


class Attentive(nn.Module):
    """Parameters of every role, among them one of two dimensions whose owner is no linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, 4)
        self.blocks = nn.Sequential(
            *(nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True) for _ in "ab")
        )
        self.head = nn.Linear(8, 3)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.blocks(self.patches(images).flatten(2).transpose(1, 2)).mean(1))
        return logits


class Sharded(Callback):
    """Notes how many numbers of the weights and of the optimizer's state this process keeps."""

    kept: Any = None

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        checkpoint["config"] = {}  # which ours all have

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        if isinstance(trainer.strategy, fsdp.FullySharded):
            state = trainer.optimizers[0].state.values()
            self.kept = [
                sum(value.to_local().numel() for value in pl_module.network.parameters()),
                sum(value["momentum_buffer"].to_local().numel() for value in state),
            ]


SCHEDULES = {
    "plateau": lambda optimizer: ReduceLROnPlateau(optimizer, patience=0, threshold=10.0, factor=0.7),
    "one cycle": lambda optimizer: OneCycleLR(optimizer, 1e-2, total_steps=16),
}


def train(
    root: str, processes: int, sharded: bool, schedule: str = "plateau", stop_after: int = 0, lr: float = 0.05
) -> Any:
    """Goes on from the last checkpoint of the root, if any; 16 steps in all."""
    seed_everything(0, verbose=False)
    last, noted = Path(root, "checkpoints/last.ckpt"), Sharded()
    model = ImageClassifier(
        Attentive(), lambda parameters: SGD(parameters, lr, momentum=0.9, weight_decay=1e-2), SCHEDULES[schedule]
    )
    strategy: Any = ("ddp" if processes > 1 else "auto") if not sharded else fsdp.FullySharded()
    callbacks = [
        CheckNumerics(),
        Checkpoints(),
        ExactResume(),
        StopOnSignal(),
        StopAfter(stop_after),
        *([noted] if sharded else []),
    ]
    fitted = trainer(
        *callbacks, noted, epochs=4, strategy=strategy, devices=processes,
        gradient_clip_val=0.1, default_root_dir=root, plugins=[CheckpointFiles()],
    )  # fmt: skip
    with suppress(SystemExit):
        fitted.fit(model, ImageData(FakeSource((10, 10, 10), (3, 3, 5)), 8), ckpt_path=last if last.exists() else None)
    return noted.kept


def last(root: str) -> Any:
    return torch.load(Path(root, "checkpoints/last.ckpt"), weights_only=True)


@pytest.fixture
def small_units(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fsdp, "LARGEST", 1000)
    monkeypatch.setattr(fsdp, "SMALLEST", 100)


@pytest.mark.usefixtures("small_units")
def test_weights_are_those_of_one_process_and_each_keeps_its_part() -> None:
    processes = 3
    train("whole", 1, False)
    kept = together(processes, train, "spread", processes, True)
    whole, spread = last("whole"), last("spread")
    torch.testing.assert_close(spread["state_dict"], whole["state_dict"], rtol=1e-5, atol=1e-6)
    assert spread["plateau"] == whole["plateau"]
    size = sum(parameter.numel() for parameter in Attentive().parameters())
    assert [sum(parts) for parts in zip(*kept, strict=True)] == [size, size]
    assert max(weights for weights, _ in kept) < 1.5 * size / processes


@pytest.mark.usefixtures("small_units")
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_resumed_with_other_processes_and_by_one_it_ends_the_same(schedule: str) -> None:
    train("whole", 1, False, schedule)
    together(2, train, "cut", 2, True, schedule, 6)  # in the middle of an epoch
    together(3, train, "cut", 3, True, schedule, 10)
    train("cut", 1, False, schedule, 13)
    together(2, train, "cut", 2, True, schedule)
    whole, cut = last("whole"), last("cut")
    assert whole["global_step"] == cut["global_step"] == 16
    torch.testing.assert_close(cut["state_dict"], whole["state_dict"], rtol=1e-5, atol=1e-6)
    assert cut["lr_schedulers"] == whole["lr_schedulers"] and cut.get("plateau") == whole.get("plateau")


def test_trouble_ends_all(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=r"ValueError: the (loss|gradient) is (NaN|infinite) in epoch 1"):
        together(2, train, "trouble", 2, True, "plateau", 0, 1e30)
    assert (tmp_path / "trouble/trouble/batch.pt").is_file()


def test_units_are_the_largest_blocks() -> None:
    network = Attentive()
    network.blocks[0].wide = nn.Linear(2000, 2000)  # 4 million
    network.tail = nn.Linear(300, 400)
    assert list(fsdp.units(network)) == [network.blocks[0], network.tail]  # others are too small
    network.blocks[1].huge = nn.ModuleList([nn.Linear(5000, 6000), nn.Linear(1000, 1000)])
    assert list(fsdp.units(network)) == [network.blocks[0], network.blocks[1].huge[1], network.tail]
