"""A NaN or infinite loss or gradient stops the run and is kept for inspection, or its step is skipped."""

import math
from pathlib import Path
from typing import Any, Literal, NamedTuple, NoReturn

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer

from litengine.data.loader import BatchLoader
from litengine.distributed import gathered
from litengine.files import relative
from litengine.optimizer_step import loss_scaler, parameters
from litengine.terminal import print_line

LOWEST_SCALE = 2**-10  # 16-mixed begins at 2**16 and halves at each overflow; below this, gradients do not overflow


class Step(NamedTuple):
    """A batch that was trained on; epoch and batch count from 0. Loss and norm are Tensors until they are read."""

    epoch: int
    batch: int
    learning_rate: Any
    loss: Any
    gradient_norm: Any

    def __str__(self) -> str:
        return "learning rate {:.3g}, loss {:.6g}, gradient norm {:.6g}".format(*self[2:])


class CheckNumerics(Callback):
    """Stops the run at a NaN or infinite loss or gradient, or skips the steps where that happens.

    A stopped run has the batch in its run directory, as `trouble/batch.pt`. On a CPU every step is checked before it
    changes the weights. On a GPU a check waits for the device: it is done every `trainer.log_every_n_steps` batches,
    and before a validation or a checkpoint, so that no checkpoint holds the damage. The batch that is named is exact.

    A skipped step changes neither weights nor optimizer state nor buffers (batch norm). It still counts as a step for
    the schedule, for averaged weights, and for `train/loss`, which a NaN makes NaN for that epoch. `skip` waits for the
    device at every step. In 16-mixed an infinite gradient is normal, and the scaler handles it; there only an infinite
    loss counts, or a loss scale that falls without end.

    Args:
        on_nan: `stop` the run, or `skip` the step.
        give_up_after: with `skip`, this many in a row stop the run after all.
    """

    def __init__(self, on_nan: Literal["stop", "skip"] = "stop", give_up_after: int = 10) -> None:
        if give_up_after < 1:
            raise ValueError(f"numerics.give_up_after is {give_up_after}: 1 or more steps in a row are needed")
        self.on_nan = on_nan
        self.give_up_after = give_up_after
        self.skipped = self.skipped_in_a_row = 0
        self._skipped_in_epoch: list[Step] = []
        self._pending: list[Step] = []  # not looked at yet
        self._buffers: list[Tensor] = []
        self._buffers_before: list[Tensor] = []  # before the step
        self._every = 1

    def state_dict(self) -> dict[str, Any]:
        return {"skipped": self.skipped, "skipped_in_a_row": self.skipped_in_a_row}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.skipped, self.skipped_in_a_row = state_dict["skipped"], state_dict["skipped_in_a_row"]

    # Every step: numbers are computed on the device, and none is read

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._every = 1 if self.on_nan == "skip" else self.batches_between_looks(trainer)
        self._buffers = list(pl_module.buffers()) if self.on_nan == "skip" else []
        self._buffers_before = [buffer.clone() for buffer in self._buffers]

    def batches_between_looks(self, trainer: Trainer) -> int:
        on_cpu = trainer.strategy.root_device.type == "cpu"  # reading a number does not wait there
        return 1 if on_cpu else int(trainer.log_every_n_steps)  # type: ignore[attr-defined]

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._batch, self._batch_index = batch, batch_idx
        if self._buffers and batch_idx % trainer.accumulate_grad_batches == 0:
            torch._foreach_copy_(self._buffers_before, self._buffers)

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        rate, numbers = trainer.optimizers[0].param_groups[0]["lr"], (pl_module.backward_loss, pl_module.gradient_norm)
        self._pending.append(Step(trainer.current_epoch, self._batch_index, rate, *numbers))

    # Looking

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        if len(self._pending) >= self._every or trainer.is_last_batch:
            self._look(trainer, optimizer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._look(trainer)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._look(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._look(trainer)
        if steps := self._skipped_in_epoch:
            first = f"the first is batch {steps[0].batch + 1} ({steps[0]})"
            print_line(f"epoch {trainer.current_epoch + 1}: {len(steps)} steps skipped, {first}")
        self._skipped_in_epoch = []

    def _look(self, trainer: Trainer, optimizer: Optimizer | None = None) -> None:
        if not self._pending or (self.on_nan == "skip" and optimizer is None):
            return
        step, rank = self._first_bad(trainer)
        self.skipped_in_a_row = self.skipped_in_a_row + 1 if step else 0
        if step and (self.on_nan == "stop" or self.skipped_in_a_row >= self.give_up_after):
            self._stop(trainer, step, rank)
        elif step and optimizer:
            self.skipped += 1
            self._skipped_in_epoch.append(step)
            if self._buffers:
                torch._foreach_copy_(self._buffers, self._buffers_before)
            _skip(optimizer, with_scaler=loss_scaler(trainer) is not None)

    def _first_bad(self, trainer: Trainer) -> tuple[Step | None, int]:
        """The first bad one of the pending steps, with its numbers, and the process that had it."""
        steps, self._pending = self._pending, []
        numbers = torch.stack([number for step in steps for number in step[3:]]).view(-1, 2)
        scaler = loss_scaler(trainer)
        infinite_gradients_are_bad = scaler is None or scaler.get_scale() < LOWEST_SCALE
        everywhere = gathered(numbers).tolist()  # (processes, steps, 2), since all must decide alike
        for index, step in enumerate(steps):
            for rank, process in enumerate(everywhere):
                loss, norm = process[index]
                if not math.isfinite(loss) or (infinite_gradients_are_bad and not math.isfinite(norm)):
                    loss *= trainer.accumulate_grad_batches  # Lightning has divided it by that
                    return step._replace(learning_rate=float(step.learning_rate), loss=loss, gradient_norm=norm), rank
        return None, 0

    # Stopping

    def _stop(self, trainer: Trainer, step: Step, rank: int) -> NoReturn:
        path = Path(trainer.default_root_dir) / "trouble" / "batch.pt"
        kept = f"the batch is kept in {relative(path)}"
        if trainer.global_rank == rank:
            try:
                (images, labels), loader = self._batch, trainer.train_dataloader
                if step.batch != self._batch_index and isinstance(loader, BatchLoader):
                    images, labels = loader.batch(loader.order(step.epoch), step.epoch, step.batch)
                path.parent.mkdir(parents=True, exist_ok=True)
                torch.save({"images": images.cpu(), "labels": labels.cpu()}, path)
            except (OSError, RuntimeError) as error:  # torch.save raises either if it cannot write
                kept = f"the batch could not be kept in {relative(path)}: {error}"
        trainer.strategy.barrier()  # the first process to end takes the others with it
        what, value = ("gradient", step.gradient_norm) if math.isfinite(step.loss) else ("loss", step.loss)
        raise ValueError(
            f"the {what} is {'NaN' if math.isnan(value) else 'infinite'} in epoch {step.epoch + 1}, batch "
            f"{step.batch + 1} of {trainer.num_training_batches} ({step})"
            + f", after {self.skipped_in_a_row - 1} skipped steps in a row" * (self.skipped_in_a_row > 1)
            + ". Try a lower learning rate"
            + ", --trainer.gradient_clip_val 1" * (not trainer.gradient_clip_val)
            + ", --trainer.precision 32-true" * (trainer.precision not in ("32-true", "64-true"))
            + ", --numerics.on_nan skip to skip such steps" * (self.on_nan == "stop")
            + f"; {kept}"
        )


def _skip(optimizer: Optimizer, with_scaler: bool) -> None:
    """Skips the next optimizer step by clearing the gradients."""
    for parameter in parameters(optimizer):
        if with_scaler and optimizer.defaults.get("fused") and parameter.grad is not None:
            parameter.grad.fill_(math.inf)  # here the scaler skips the step, and it looks for infinite gradients
        else:
            parameter.grad = None


def explain_out_of_memory(error: torch.OutOfMemoryError, batch_size: int) -> str:
    """What a CUDA out of memory error means to the user, and what to try."""
    sizes = str(error).partition(" Including")[0].removeprefix("CUDA out of memory. ")
    half = (
        f"--data.batch_size {batch_size // 2} with twice the --trainer.accumulate_grad_batches (the same {batch_size} "
        "images an update), "
    )
    return (
        f"the GPU has no memory left with data.batch_size {batch_size}. Try {half * (batch_size > 1)}"
        f"--trainer.precision 16-mixed or bf16-mixed, or smaller images. PyTorch says: {sizes}"
    )
