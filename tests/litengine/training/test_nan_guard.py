import functools
import math
import re
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from helpers import FakeSource, fit
from lightning.pytorch import Callback
from lightning.pytorch.plugins.precision import MixedPrecision
from project_for_tests import ImageClassifier, ImageData, RandomFlip
from torch import nn

from litengine.cli import errors
from litengine.training import Checkpoints
from litengine.training.nan_guard import CheckNumerics, explain_out_of_memory

ADAM = functools.partial(torch.optim.Adam, lr=0.02)
KEPT = Path("trouble/batch.pt")


class Injured(ImageClassifier):
    """Its loss is multiplied by `loss`, or the gradient of its bias by `gradient`, at each (epoch, batch) in `at`."""

    def __init__(self, at=(), loss=1.0, gradient=1.0, optimizer=ADAM):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
        super().__init__(network, optimizer, None)
        self.at, self.factor = at, loss
        self.network[4].bias.register_hook(lambda value: value * gradient if self.now in at else None)

    def training_step(self, batch, index):
        self.now = (self.current_epoch, index)
        loss = super().training_step(batch, index)
        return loss * self.factor if self.now in self.at else loss


class Watch(Callback):
    """The model and the optimizer before each step, and at the end; the loss and norm of each."""

    def __init__(self):
        self.models, self.optimizers, self.losses = {}, {}, {}

    def look(self, trainer, model, place):
        self.models[place] = {name: value.clone() for name, value in model.state_dict().items()}
        state = trainer.optimizers[0].state_dict()["state"]
        self.optimizers[place] = {(p, name): value.clone() for p in state for name, value in state[p].items()}

    def on_train_batch_start(self, trainer, model, batch, index):
        self.look(trainer, model, (trainer.current_epoch, index))

    def on_train_batch_end(self, trainer, model, outputs, batch, index):
        self.losses[trainer.current_epoch, index] = outputs["loss"].item() if outputs else None

    def on_train_end(self, trainer, model):
        self.look(trainer, model, "end")


def data() -> ImageData:
    """4 batches an epoch."""
    return ImageData(FakeSource(), batch_size=6, val_fraction=0.2, augment=[RandomFlip()])


def run(model, numerics, *callbacks, **settings):
    watch = Watch()
    fit(model, data(), numerics, *callbacks, watch, **({"epochs": 3} | settings))
    return watch


def stopped(model, numerics, *callbacks, **settings):
    """The message of a run that must stop, and what was seen of it."""
    watch = Watch()
    images = data()
    with pytest.raises(ValueError, match="in epoch") as caught:
        fit(model, images, numerics, *callbacks, watch, **({"epochs": 3} | settings))
    assert errors.is_for_the_user(caught.value)
    watch.loader = images.train_dataloader()
    return str(caught.value), watch


def same(ours, theirs) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def kept(loader, epoch, number) -> bool:
    """Whether this batch was kept."""
    images, labels = loader.batch(loader.order(epoch), epoch, number)
    return same(torch.load(KEPT, weights_only=True), {"images": images, "labels": labels})


def numbers(message) -> tuple[float, float]:
    """Loss and gradient norm in a message."""
    loss, norm = re.search(r"loss ([-\w.+]+), gradient norm ([-\w.+]+)\)", message).groups()
    return float(loss), float(norm)


@pytest.fixture
def seldom(monkeypatch):
    """Looks every 50 batches, as on a GPU."""
    monkeypatch.setattr(CheckNumerics, "batches_between_looks", lambda self, trainer: 50)


@pytest.mark.parametrize(
    ("place", "factor", "word"), [((0, 0), math.nan, "NaN"), ((1, 2), math.inf, "infinite"), ((2, 3), math.nan, "NaN")]
)
def test_a_bad_loss_stops_at_the_very_step(place, factor, word):
    epoch, batch = place
    model = Injured([place], loss=factor)
    message, watch = stopped(model, CheckNumerics())
    assert message == (
        f"the loss is {word} in epoch {epoch + 1}, batch {batch + 1} of 4 "
        f"(learning rate 0.02, loss {factor}, gradient norm nan). Try a lower learning rate, "
        "--trainer.gradient_clip_val 1, --numerics.on_nan skip to skip such steps; "
        "the batch is kept in trouble/batch.pt"
    )
    assert max(watch.models, key=list(watch.models).index) == place  # no step came after it
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, watch.models[place][name]), name
    assert kept(watch.loader, *place)


def test_an_infinite_gradient_of_a_finite_loss_is_caught():
    model = Injured([(1, 1)], gradient=math.inf)
    message, watch = stopped(model, CheckNumerics(), gradient_clip_val=1.0)
    assert message.startswith("the gradient is infinite in epoch 2, batch 2 of 4 (learning rate 0.02, loss ")
    assert "gradient norm inf). Try a lower learning rate, --numerics.on_nan" in message
    assert torch.equal(model.network[4].weight, watch.models[1, 1]["network.4.weight"])
    # the loss in the message is that of this batch with these weights
    clean = run(Injured(), CheckNumerics(), epochs=2, gradient_clip_val=1.0)
    assert numbers(message)[0] == pytest.approx(clean.losses[1, 1], rel=1e-5)


def test_the_gradient_norm_is_that_of_all_parameters():
    class Norm(Callback):
        def on_before_optimizer_step(self, trainer, model, optimizer):
            squares = sum(p.grad.double().square().sum() for p in model.parameters())
            assert float(model.gradient_norm) == pytest.approx(squares.sqrt().item(), rel=1e-5)

    run(Injured(), CheckNumerics(), Norm(), epochs=1)


@pytest.mark.parametrize("place", [(0, 1), (1, 0), (1, 3)])
def test_looking_seldom_names_the_same_batch_before_anything_is_validated_or_saved(seldom, place):
    class Validated(Callback):
        epochs = ()

        def on_validation_start(self, trainer, model):
            if not trainer.sanity_checking:
                self.epochs = (*self.epochs, trainer.current_epoch)

    validated = Validated()
    message, watch = stopped(Injured([place], loss=math.nan), CheckNumerics(), validated, Checkpoints())
    epoch, batch = place
    assert f"in epoch {epoch + 1}, batch {batch + 1} of 4 (learning rate 0.02, loss nan" in message
    assert kept(watch.loader, *place)
    assert validated.epochs == tuple(range(epoch))
    last = Path("checkpoints/last.ckpt")
    assert last.exists() == bool(epoch)
    if epoch:
        content = torch.load(last, weights_only=True)
        assert content["global_step"] == 4 * epoch
        assert all(value.isfinite().all() for value in content["state_dict"].values())


def test_looking_seldom_looks_before_a_checkpoint_within_an_epoch(seldom):
    message, watch = stopped(Injured([(1, 1)], loss=math.nan), CheckNumerics(), Checkpoints(every_n_minutes=0))
    assert "in epoch 2, batch 2 of 4" in message and (1, 2) not in watch.models
    content = torch.load("checkpoints/last.ckpt", weights_only=True)
    assert content["global_step"] == 5 and all(v.isfinite().all() for v in content["state_dict"].values())


@pytest.mark.parametrize("injury", [{"loss": math.nan}, {"gradient": math.inf}])
def test_skip_changes_nothing_and_goes_on(injury, capsys):
    bad = [(0, 0), (1, 1), (1, 2)]
    numerics = CheckNumerics("skip", give_up_after=3)
    watch = run(Injured(bad, **injury), numerics)
    places = list(watch.models)
    unchanged = [
        place
        for place, after in pairwise(places)
        if same(watch.models[place], watch.models[after]) and same(watch.optimizers[place], watch.optimizers[after])
    ]
    assert unchanged == bad and len(places) == 12 + 1
    assert all(value.isfinite().all() for value in watch.models["end"].values())
    assert watch.optimizers["end"][0, "step"] == 12 - 3
    assert (numerics.skipped, numerics.skipped_in_a_row) == (3, 0)
    told = [line for line in capsys.readouterr().out.splitlines() if "skipped" in line]
    assert [line.partition(" (")[0] for line in told] == [
        "epoch 1: 1 steps skipped, the first is batch 1", "epoch 2: 2 steps skipped, the first is batch 2",
    ]  # fmt: skip
    assert not KEPT.exists()


def test_skip_is_the_same_as_never_having_seen_the_batch():
    class Without(Injured):
        def training_step(self, batch, index):
            self.now = (self.current_epoch, index)
            if self.now in self.at:
                return None  # Lightning then skips the step
            return ImageClassifier.training_step(self, batch, index)

    ours = run(Injured([(1, 1)], loss=math.nan), CheckNumerics("skip"))
    theirs = run(Without([(1, 1)]), CheckNumerics())
    assert same(ours.models["end"], theirs.models["end"])
    assert same(ours.optimizers["end"], theirs.optimizers["end"])


def test_skip_gives_up_after_n_in_a_row_across_epochs_and_a_resume():
    bad = [(0, 1), (0, 3), (1, 0), (1, 1)]
    run(Injured(bad, loss=math.nan), CheckNumerics("skip", 3), Checkpoints(), epochs=1)
    message, watch = stopped(
        Injured(bad, loss=math.nan), CheckNumerics("skip", 3), Checkpoints(), ckpt_path="checkpoints/last.ckpt"
    )
    assert message.startswith("the loss is NaN in epoch 2, batch 2 of 4 (")
    assert ", after 2 skipped steps in a row. Try" in message and "on_nan" not in message
    assert kept(watch.loader, 1, 1)


@pytest.mark.parametrize(
    ("on_nan", "settings"), [("stop", {"accumulate_grad_batches": 2, "gradient_clip_val": 0.1}), ("skip", {})]
)
def test_a_clean_run_is_the_same_with_and_without(on_nan, settings):
    ours = run(Injured(), CheckNumerics(on_nan), **settings)
    theirs = run(Injured(), Callback(), **settings)
    assert same(ours.models["end"], theirs.models["end"]) and same(ours.optimizers["end"], theirs.optimizers["end"])
    assert ours.losses == theirs.losses and not KEPT.exists()


@pytest.mark.parametrize("injury", [{"loss": math.nan}, {"gradient": math.inf}])
def test_of_accumulated_batches_the_first_bad_one_is_named(injury):
    message, watch = stopped(Injured([(1, 2)], **injury), CheckNumerics(), accumulate_grad_batches=2)
    assert "in epoch 2, batch 3 of 4" in message
    assert kept(watch.loader, 1, 2)
    if "gradient" in injury:  # not the half that Lightning makes of it
        clean = run(Injured(), CheckNumerics(), accumulate_grad_batches=2, epochs=2)
        assert numbers(message)[0] == pytest.approx(2 * clean.losses[1, 2], rel=1e-5)


def half(scale=2.0**10):
    """16-mixed with its scaler, which Lightning itself would not use on a CPU."""
    return {"plugins": MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=scale))}


FUSED = functools.partial(torch.optim.Adam, lr=0.02, fused=True)


@pytest.mark.parametrize("optimizer", [ADAM, FUSED])
def test_in_16_mixed_an_infinite_gradient_is_left_to_the_scaler(optimizer):
    watch = run(Injured([(0, 1), (1, 1)], gradient=math.inf, optimizer=optimizer), CheckNumerics(), epochs=2, **half())
    assert watch.optimizers["end"][0, "step"] == 8 - 2 and not KEPT.exists()


def test_in_16_mixed_a_bad_loss_and_a_falling_scale_stop():
    message, _ = stopped(Injured([(1, 1)], loss=math.nan), CheckNumerics(), **half())
    assert "the loss is NaN in epoch 2, batch 2 of 4" in message and "--trainer.precision 32-true" in message
    everywhere = [(epoch, batch) for epoch in range(3) for batch in range(4)]
    message, _ = stopped(Injured(everywhere, gradient=math.nan), CheckNumerics(), **half(2.0**-8))
    # 2**-8, -9, -10 may be overflows; the fourth is not
    assert "the gradient is NaN in epoch 1, batch 4 of 4" in message
    # the loss in the message has no scale
    still = functools.partial(torch.optim.SGD, lr=0.0)
    clean = run(Injured(optimizer=still), CheckNumerics(), epochs=1, **half(1.0))
    assert numbers(message)[0] == pytest.approx(clean.losses[0, 3], rel=1e-3)


@pytest.mark.parametrize(("optimizer", "gradient"), [(ADAM, math.nan), (FUSED, math.nan), (FUSED, 0.5)])
def test_in_16_mixed_skip_changes_nothing(optimizer, gradient):
    class Infinite(Injured):
        """An infinite loss whose gradient is finite, unless `gradient` is NaN."""

        def training_step(self, batch, index):
            loss = super().training_step(batch, index)
            return loss + math.inf if self.now in self.at else loss

    numerics = CheckNumerics("skip")
    watch = run(Infinite([(0, 1)], gradient=gradient, optimizer=optimizer), numerics, epochs=1, **half())
    assert numerics.skipped == 1
    assert same(watch.models[0, 1], watch.models[0, 2]) and same(watch.optimizers[0, 1], watch.optimizers[0, 2])
    assert not same(watch.models[0, 2], watch.models[0, 3])


def test_a_batch_that_cannot_be_kept_does_not_hide_the_trouble():
    KEPT.parent.write_text("a file in the way")
    message, _ = stopped(Injured([(0, 1)], loss=math.nan), CheckNumerics())
    assert message.startswith("the loss is NaN in epoch 1, batch 2 of 4")
    assert "the batch could not be kept in trouble/batch.pt: [Errno 17] File exists" in message


def test_give_up_after_must_be_positive():
    with pytest.raises(ValueError, match=r"numerics.give_up_after is 0: 1 or more"):
        CheckNumerics(give_up_after=0)


def test_out_of_memory_says_how_much_and_what_to_try():
    error = torch.OutOfMemoryError(
        "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 7.79 GiB of which 512.06 MiB is "
        "free. Including non-PyTorch memory, this process has 6.92 GiB memory in use. Of the allocated memory …"
    )
    assert explain_out_of_memory(error, 128) == (
        "the GPU has no memory left with data.batch_size 128. Try --data.batch_size 64 with twice the "
        "--trainer.accumulate_grad_batches (the same 128 images an update), --trainer.precision 16-mixed or "
        "bf16-mixed, or smaller images. PyTorch says: Tried to allocate 2.50 GiB. GPU 0 has a total capacity of "
        "7.79 GiB of which 512.06 MiB is free."
    )
    assert "Try --trainer.precision" in explain_out_of_memory(error, 1)
