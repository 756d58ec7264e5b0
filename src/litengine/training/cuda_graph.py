"""Forward and backward of a network, recorded once as a CUDA graph and replayed for every full training batch."""

import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn

from litengine.terminal import print_line

TOLERANCE = 0.02  # of the self-check, relative to the norm: half precision, sums in another order
Buffers = list[tuple[Tensor, Tensor]]  # each with a copy of its values


class CudaGraph:
    """Runs a network on training batches: by replay of a CUDA graph where that is possible, else as usual.

    The host launches a graph with one call, where the network alone takes hundreds. The graph is recorded at the first
    training batch of `size` images on a GPU. Batches of another size or shape, evaluation and code without gradients
    use the network itself. Recording changes neither weights and buffers nor the random state. If recording fails or
    the replay gives other numbers than the network, one line is printed and the network is used.

    Parameters must keep their memory, and the network must do the same for every batch. Make a new object for each fit,
    and when `is_outdated()`.

    Args:
        network: maps float images (N, C, H, W) to logits (N, classes). It is not changed.
        size: images of a full batch.
    """

    def __init__(self, network: nn.Module, size: int) -> None:
        self.network = network
        self.size = size
        self._shape: torch.Size | None = None  # of the recorded batch; None before the recording
        self._state: list[bool] = []  # that it was recorded in
        self._replay: Callable[[Tensor], Tensor] | None = None

    def __call__(self, images: Tensor) -> Tensor:
        """Logits (N, classes) of normalised images (N, C, H, W). The next call overwrites them."""
        if images.is_cuda and len(images) == self.size and self.network.training and torch.is_grad_enabled():
            if self._shape is None:
                self._shape, self._state = images.shape, self._present_state()
                self._record(images.detach())
            if self._replay is not None and images.shape == self._shape:
                return self._replay(images)
        logits: Tensor = self.network(images)
        return logits

    def is_outdated(self) -> bool:
        """Whether parameters or modules were frozen or unfrozen after the recording. Ask it in training mode."""
        return self._shape is not None and self._state != self._present_state()

    def _present_state(self) -> list[bool]:
        trained = [parameter.requires_grad for parameter in self.network.parameters()]
        return trained + [module.training for module in self.network.modules()]

    def _record(self, images: Tensor) -> None:
        buffers = [(buffer, buffer.clone()) for buffer in self.network.buffers()]
        kind, enabled = torch.get_autocast_dtype("cuda"), torch.is_autocast_enabled("cuda")
        try:
            with torch.autocast("cuda", kind, enabled, cache_enabled=False):
                expected = self._checked(images, buffers)
                with torch.random.fork_rng(devices=[images.device]):
                    replay = self._recorded(images.clone())
                _restore(buffers)
                found = self._results(replay, images, buffers)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, AssertionError) as error:
            print_line(f"cuda_graph: the network cannot be recorded, and is used as it is: {error}".splitlines()[0])
            return
        finally:
            _restore(buffers)
        differences = [float((a - b).norm() / b.norm()) for a, b in zip(found, expected, strict=True)]
        if all(difference <= TOLERANCE for difference in differences):
            self._replay = replay
        else:
            print_line(f"cuda_graph: the recorded network gives other numbers ({max(differences):.2g}): not used")

    def _checked(self, images: Tensor, buffers: Buffers) -> list[Tensor]:
        """The results of the network. Raises RuntimeError if it waits for the device, before a recording that fails
        leaves the random generator unusable."""
        before = torch.cuda.get_sync_debug_mode()
        torch.cuda.set_sync_debug_mode("error")
        try:
            return self._results(self.network, images, buffers)
        finally:
            torch.cuda.set_sync_debug_mode(before)

    def _recorded(self, images: Tensor) -> Callable[[Tensor], Tensor]:
        # Gradients of a replay are added on the stream of the recording: torch waits for it, and warns.
        warnings.filterwarnings("ignore", "The AccumulateGrad node's stream")
        before = self.network.__dict__.get("forward")
        try:
            torch.cuda.make_graphed_callables(self.network, (images,))  # replaces `forward` of the network …
            replay: Callable[[Tensor], Tensor] = self.network.__dict__["forward"]
        finally:
            self.network.__dict__.pop("forward", None)  # … which evaluation and checkpoints need as it was
            if before is not None:
                self.network.__dict__["forward"] = before
        return replay

    def _results(self, network: Callable[[Tensor], Tensor], images: Tensor, buffers: Buffers) -> list[Tensor]:
        """Logits, all gradients, all buffers, float32 (n,), from the same random state in each call."""
        with torch.random.fork_rng(devices=[images.device]):
            logits = network(images)
            weights = torch.linspace(-1, 1, logits.numel(), device=logits.device).view_as(logits)
            trained = [parameter for parameter in self.network.parameters() if parameter.requires_grad]
            loss = (logits.float() * weights).sum() / len(images) ** 0.5  # half precision holds its gradients
            gradients = torch.autograd.grad(loss, trained)
            kinds = [[logits], list(gradients), list(self.network.buffers())]
            found = [torch.cat([each.detach().flatten().float() for each in kind]) for kind in kinds if kind]
        _restore(buffers)
        return found


def _restore(buffers: Buffers) -> None:
    with torch.no_grad():
        for buffer, before in buffers:
            buffer.copy_(before)
