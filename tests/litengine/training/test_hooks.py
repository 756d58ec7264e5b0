"""What a callback without a hook of its own costs at a step: nothing."""

import sys

import pytest
import torch
from helpers import FakeSource, fit
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import LambdaCallback
from project_for_tests import ImageClassifier, ImageData
from torch import nn

from litengine.training import ExactResume, LoggerSteps
from litengine.training.hooks import EVERY_STEP


class EachStep(Callback):
    """Counts its own calls, and those of the hooks that other callbacks leave empty."""

    steps = empty_hooks = 0

    def on_train_batch_start(self, *args: object) -> None:
        self.steps += 1
        sys.setprofile(self.count)

    def on_train_epoch_end(self, *args: object) -> None:
        sys.setprofile(None)

    def count(self, frame, event: str, argument: object) -> None:
        name, file = frame.f_code.co_name, frame.f_code.co_filename
        empty = event == "call" and name in EVERY_STEP and file.endswith("callbacks/callback.py")
        self.empty_hooks += empty and frame.f_locals["self"] is not self


def trained(*callbacks: Callback) -> Trainer:
    torch.manual_seed(0)
    model = ImageClassifier(nn.Sequential(nn.Flatten(), nn.Linear(192, 3)), lr_scheduler=None)
    return fit(model, ImageData(FakeSource(), batch_size=8, val_fraction=0.2), *callbacks, epochs=2)


def test_empty_hooks_are_not_called_and_others_are() -> None:
    counted = EachStep()
    trained(LoggerSteps(), counted, LambdaCallback())
    assert (counted.steps, counted.empty_hooks) == (6, 0)


def test_a_hook_that_belongs_to_one_object_is_called() -> None:
    batches: list[int] = []
    trained(LambdaCallback(on_train_batch_start=lambda trainer, model, batch, index: batches.append(index)))
    assert batches == [0, 1, 2] * 2


def test_the_empty_hooks_of_an_owners_callback_can_be_called() -> None:
    class Passes(Callback):
        def on_train_batch_end(self, trainer, model, *args) -> None:
            self.on_after_backward(trainer, model)

    trained(Passes())


def test_the_zero_grad_of_an_owners_optimizer_is_called() -> None:
    class Counts(torch.optim.SGD):
        cleared = 0

        def zero_grad(self, set_to_none: bool = True) -> None:
            self.cleared += 1
            super().zero_grad(set_to_none)

    model = ImageClassifier(nn.Sequential(nn.Flatten(), nn.Linear(192, 3)), Counts, lr_scheduler=None)
    fitted = fit(model, ImageData(FakeSource(), batch_size=8, val_fraction=0.2), epochs=2)
    assert fitted.optimizers[0].cleared == 6


def test_a_callback_can_be_used_in_a_second_fit() -> None:
    counted, ended = EachStep(), LoggerSteps()
    for _ in range(2):
        trained(ended, counted)
    assert counted.steps == 12 and vars(ended).keys() >= EVERY_STEP


def test_a_resume_names_only_callbacks_with_a_state_of_their_own(capsys: pytest.CaptureFixture[str]) -> None:
    counted, ended = EachStep(), LoggerSteps()
    for _ in range(2):
        trained(ended, counted, ExactResume())
    named = [line for line in capsys.readouterr().out.splitlines() if "has no state_dict" in line]
    assert named == ["EachStep has no state_dict: its state is not restored when the fit is resumed"]  # in the second


def test_a_batch_on_the_device_is_not_moved_again_and_another_is() -> None:
    data, cpu = ImageData(FakeSource()), torch.device("cpu")
    batch = (torch.zeros(2, 3, 8, 8, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64))
    assert data.transfer_batch_to_device(batch, cpu, 0) is batch
    elsewhere = data.transfer_batch_to_device((batch[0].to("meta"), batch[1]), torch.device("meta"), 0)
    assert {each.device.type for each in elsewhere} == {"meta"}
    assert data.transfer_batch_to_device({"images": batch[0]}, cpu, 0)["images"].equal(batch[0])


def test_a_model_may_move_its_batches() -> None:
    class Moves(ImageClassifier):
        moved = 0

        def transfer_batch_to_device(self, batch, device: torch.device, dataloader_idx: int):
            self.moved += 1
            return super().transfer_batch_to_device(batch, device, dataloader_idx)

    model = Moves(nn.Sequential(nn.Flatten(), nn.Linear(192, 3)), lr_scheduler=None)
    fit(model, ImageData(FakeSource(), batch_size=8, val_fraction=0), epochs=1)
    assert model.moved == 4


def test_what_takes_the_place_of_a_plain_attribute_is_registered() -> None:
    model = ImageClassifier(nn.Linear(1, 1))
    model.expected = model.members = "plain"
    assert vars(model)["expected"] == vars(model)["members"] == "plain"
    model.expected, model.members = nn.Parameter(torch.ones(3)), nn.Linear(2, 5)
    assert {"expected", "members.weight", "members.bias"} < {name for name, _ in model.named_parameters()}
    assert not {"expected", "members"} & vars(model).keys()
