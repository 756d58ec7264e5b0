"""One step of the optimizer: its gradient is the mean over its images, whatever the sizes of the batches."""

from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torch.optim import Optimizer

from litengine.data import BatchLoader
from litengine.distributed import share


def weight_of_batch(trainer: Trainer, batch_idx: int, labels: Tensor) -> Tensor | float:
    """What the loss of a batch is multiplied by, so that the gradient of a step is the mean over its images.

    It is 1 if all batches have the same size: DDP averages over processes, Lightning over accumulated batches.
    """
    part = share(len(labels), labels.device) * trainer.world_size
    number, loader = trainer.accumulate_grad_batches, trainer.train_dataloader
    if number == 1:
        return part
    first = batch_idx - batch_idx % number
    step = range(first, int(min(first + number, trainer.num_training_batches)))
    sizes = [loader.size(index) if isinstance(loader, BatchLoader) else 1 for index in step]
    return part * (sizes[batch_idx - first] * number / sum(sizes))


def loss_and_norm(trainer: Trainer, loss: Tensor) -> tuple[Tensor, Tensor]:
    """The loss of a batch and the norm of all gradients together, without the loss scale. Waits for no device."""
    gradients: list[Any] = [each.grad for each in parameters(trainer.optimizers[0]) if each.grad is not None]
    norm: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    if scaler := loss_scaler(trainer):
        scale = scaler.scale(torch.ones_like(norm))  # get_scale would wait for the device
        return loss / scale, norm / scale
    return loss, norm


def loss_scaler(trainer: Trainer) -> Any:
    """That of 16-mixed, else None."""
    return getattr(trainer.precision_plugin, "scaler", None)


def match_layouts(optimizer: Optimizer) -> None:
    """Gives the optimizer's state the layout in memory of its parameters, as after a resume with another channels_last.

    torch's fused optimizers for CPUs give wrong numbers if the layouts differ.
    """
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                state[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def zero_grad(optimizer: Optimizer) -> None:
    """What `optimizer.zero_grad()` does; of torch's only that, for its record of the call takes longer."""
    if type(optimizer).zero_grad is not Optimizer.zero_grad:
        optimizer.zero_grad()
    else:
        for parameter in parameters(optimizer):
            parameter.grad = None


def parameters(optimizer: Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]
