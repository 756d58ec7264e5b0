import functools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import FakeSource, fit, trainer
from lightning.pytorch import Callback
from lightning.pytorch.cli import ReduceLROnPlateau as MonitoredPlateau
from lightning.pytorch.loggers import Logger
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR, ReduceLROnPlateau, StepLR

from litcnn.data import ImageData
from litcnn.model import ImageClassifier
from litengine.training import Checkpoints
from litengine.views import average

LAST = "checkpoints/last.ckpt"


def linear(classes: int = 3, inputs: int = 3 * 8 * 8) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(inputs, classes))


def sgd(parameters) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=1.0)


def classifier(**options) -> ImageClassifier:
    return ImageClassifier(**({"network": linear(), "optimizer": sgd, "lr_scheduler": None} | options))


def data(**options) -> ImageData:
    """24 training and 6 validation images: 3 steps an epoch; 15 test images."""
    return ImageData(FakeSource(), **({"batch_size": 8, "val_fraction": 0.2} | options))


class LearningRates(Callback):
    """The learning rate of every step."""

    def __init__(self) -> None:
        self.steps: list[float] = []

    def on_train_batch_start(self, trainer, *args):
        self.steps.append(trainer.optimizers[0].param_groups[0]["lr"])


class Outputs(Callback):
    """What the test steps return."""

    def __init__(self) -> None:
        self.of_test: list[Tensor] = []

    def on_test_batch_end(self, trainer, module, outputs, *args):
        self.of_test.append(outputs)


def images_of(data: ImageData, split: str) -> tuple[Tensor, Tensor]:
    """Images and labels of a split, in its order."""
    part = data.subset(split)
    return part.arrays.images[part.indices], part.arrays.labels[part.indices]


def logits_of(model: ImageClassifier, images: Tensor) -> Tensor:
    with torch.no_grad():
        return model(images)


class Logged(Logger):
    """Everything that was logged: values and steps by name."""

    name = version = ""

    def __init__(self) -> None:
        super().__init__()
        self.values: dict[str, list[float]] = {}
        self.steps: dict[str, list[int]] = {}

    def log_metrics(self, metrics, step=None):
        for name, value in metrics.items():
            self.values.setdefault(name, []).append(value)
            self.steps.setdefault(name, []).append(step)

    def log_hyperparams(self, *args, **kwargs):
        pass


# Normalisation


def test_pixels_become_pixels_minus_mean_over_deviation():
    model = classifier(network=nn.Identity(), channels_last=False)
    model.normalize.set([0.1, 0.5, 0.9], [0.2, 0.0, 0.4])  # a channel of one value is only shifted
    pixels = np.random.default_rng(0).integers(0, 256, (4, 3, 5, 6), dtype=np.uint8)
    mean, std = (np.array(values)[:, None, None] for values in ([0.1, 0.5, 0.9], [0.2, 1.0, 0.4]))
    expected = torch.from_numpy((pixels / 255 - mean) / std).float()
    for given in (torch.from_numpy(pixels), torch.from_numpy(pixels / 255).float()):
        before = given.clone()
        torch.testing.assert_close(model(given), expected, rtol=1e-5, atol=1e-5)
        assert torch.equal(given, before)


@pytest.mark.parametrize("channels_last", [True, False])
def test_channels_last_is_a_layout_and_changes_no_logit(channels_last):
    torch.manual_seed(0)
    layouts = []
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 3))
    model = classifier(network=network, channels_last=channels_last)
    network.register_forward_pre_hook(
        lambda _, images: layouts.append(images[0].is_contiguous(memory_format=torch.channels_last))
    )
    images = torch.rand(2, 3, 8, 8)
    torch.testing.assert_close(model(images), network(images))
    assert layouts[0] is channels_last


# Loss and metrics


def cross_entropy(logits: Tensor, labels: Tensor, smoothing: float = 0.0) -> float:
    """The mean of -sum(target * log softmax), in float64, written out."""
    exponents = np.exp(logits.double().numpy())
    probabilities = exponents / exponents.sum(1, keepdims=True)
    targets = np.full(probabilities.shape, smoothing / probabilities.shape[1])
    targets[np.arange(len(labels)), labels.numpy()] += 1 - smoothing
    return float(-(targets * np.log(probabilities)).sum(1).mean())


def weighted(*weights: float):
    """The cross entropy of classes with these weights."""

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        of_images = torch.tensor(weights)[labels]
        return (of_images * F.cross_entropy(logits, labels, reduction="none")).sum() / of_images.sum()

    return loss


class Smallest(nn.Module):
    """A simple loss: the mean of the smallest logit and the label."""

    def forward(self, logits, labels):
        return (logits.amin(1) + labels).mean()


# Options, and the loss of training and of evaluation
FORMULAS = {
    "plain": ({}, cross_entropy, cross_entropy),
    "smoothed": ({"label_smoothing": 0.1}, functools.partial(cross_entropy, smoothing=0.1), cross_entropy),
    "of one's own": ({"loss": Smallest()}, Smallest(), Smallest()),
    "weighted": ({"class_weights": [1.0, 2.0, 0.5]}, weighted(1.0, 2.0, 0.5), cross_entropy),
    "balanced": ({"class_weights": "balanced"}, weighted(48 / 3 / 16, 48 / 3 / 8, 48 / 3 / 24), cross_entropy),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_losses_of_training_and_evaluation_are_those_of_the_formula(name):
    options, of_training, of_evaluation = FORMULAS[name]
    model = classifier(**options, optimizer=functools.partial(torch.optim.SGD, lr=0.0))  # no batch changes the network
    size = 60 if "class_weights" in options else 7  # each batch divides by its own weights
    part, logged = ImageData(FakeSource(train=(20, 10, 30)), batch_size=size, val_fraction=0.2), Logged()
    fit(model, part, epochs=1, logger=logged).test(model, part, verbose=False)
    for split, loss in (("train", of_training), ("val", of_evaluation), ("test", of_evaluation)):
        images, labels = images_of(part, split)
        logits = logits_of(model, images)
        assert logged.values[f"{split}/loss"] == pytest.approx([float(loss(logits, labels))], rel=1e-4)
        assert logged.values[f"{split}/acc"] == pytest.approx([float((logits.argmax(1) == labels).float().mean())])


def test_test_metrics_equal_those_counted_from_the_predictions():
    source = FakeSource(test=(11, 3, 9))  # 23 images: the last of the batches holds 2
    images = ImageData(source, batch_size=7, mean=[0.4] * 3, std=[0.2] * 3)
    model = classifier()
    kept = Outputs()
    metrics = trainer(kept).test(model, images, verbose=False)[0]
    probabilities = torch.cat(kept.of_test)

    labels = source.load("test").labels
    assert probabilities.shape == (23, 3) and probabilities.dtype == torch.float32
    torch.testing.assert_close(probabilities.sum(1), torch.ones(23))
    right = (probabilities.argmax(1) == labels).double()
    assert 0 < right.sum() < 23
    expected = {"test/loss": float(-probabilities[range(23), labels].log().mean()), "test/acc": float(right.mean())}
    assert metrics == pytest.approx(expected, rel=1e-5)
    assert set(metrics) == set(expected)


def test_test_time_augmentation_counts_in_the_test_and_not_in_validation():
    module, kept, part = classifier(tta="flip+shift"), Outputs(), data()
    metrics = trainer(kept).test(module, part, verbose=False)[0]
    images, labels = images_of(part, "test")
    with torch.no_grad():
        expected = average(module.network, module.normalize(images), "flip+shift").softmax(1)
    torch.testing.assert_close(torch.cat(kept.of_test), expected)
    assert metrics["test/loss"] == pytest.approx(float(-expected[range(15), labels].log().mean()), rel=1e-5)
    validated = trainer().validate(module, part, verbose=False)[0]
    images, labels = images_of(part, "val")
    assert validated["val/loss"] == pytest.approx(cross_entropy(logits_of(module, images), labels), rel=1e-5)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"label_smoothing": 1.1}, "model.label_smoothing is 1.1: choose a fraction of 0 to 1"),
        ({"loss": Smallest(), "label_smoothing": 0.1}, "label_smoothing is a setting of cross entropy"),
        ({"class_weights": [1.0, -2.0, 1.0]}, "model.class_weights has -2.0: choose numbers of 0 or more"),
        ({"class_weights": [1.0, 2.0]}, "model.class_weights has 2 numbers for 3 classes"),
        ({"loss": nn.BCEWithLogitsLoss()}, r"model.loss cannot take logits \(N, classes\) and labels"),
        ({"loss": nn.CrossEntropyLoss(reduction="none")}, r"model.loss gives numbers of shape \[2\]"),
        ({"network": linear(10)}, r"logits of shape \[\d+, 10\] .*the data has 3 classes"),
        ({"parameter_groups": {"biases": {"mo": 1}}}, "biases.mo is not a setting of SGD: there are lr,"),
    ],
)
def test_settings_that_cannot_work_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        fit(classifier(**options), data(), epochs=1)


def test_metrics_by_name_are_those_of_scikit_learn():
    from sklearn.metrics import balanced_accuracy_score, f1_score, roc_auc_score, top_k_accuracy_score

    names, classes = ["acc", "f1", "balanced_acc", "auroc", "acc_top5"], 7
    images = ImageData(FakeSource(train=[9] * classes, val=range(3, 3 + classes)), batch_size=16)
    small = functools.partial(torch.optim.SGD, lr=0.01)  # probabilities of exactly 1 would be ties
    module, logged = classifier(network=linear(classes), metrics=names, optimizer=small), Logged()
    fit(module, images, epochs=1, logger=logged)
    arrays, indices = images.subset("val")
    with torch.no_grad():
        probabilities = module(arrays.images[indices]).softmax(1).double().numpy()
    labels = arrays.labels[indices].numpy()
    expected = {
        "val/f1": f1_score(labels, probabilities.argmax(1), average="macro"),
        "val/balanced_acc": balanced_accuracy_score(labels, probabilities.argmax(1)),
        "val/auroc": roc_auc_score(labels, probabilities / probabilities.sum(1, keepdims=True), multi_class="ovr"),
        "val/acc_top5": top_k_accuracy_score(labels, probabilities, k=5),
    }
    assert {name: logged.values[name][-1] for name in expected} == pytest.approx(expected, abs=1e-6)


class Halves(nn.Module):
    """Mixes every image half and half with the one before it, and their targets too."""

    def forward(self, images, targets):
        self.targets = targets
        return (images + images.roll(1, 0)) / 2, 0.75 * targets + 0.25 * targets.roll(1, 0)


def test_mixed_images_are_trained_on_with_mixed_targets():
    seen = {}

    class Watched(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = linear()

        def forward(self, images):
            if self.training:
                seen["images"] = images
            return self.inner(images)

    logged = Logged()
    whole = data(batch_size=24, val_fraction=0.2, mean=[0.5] * 3, std=[0.25] * 3)
    module = classifier(network=Watched(), mixing=Halves(), label_smoothing=0.1)
    before = {name: value.clone() for name, value in module.network.inner.state_dict().items()}
    fit(module, whole, epochs=1, logger=logged)
    loader = whole.train_dataloader()
    images, labels = loader.batch(loader.order(0), 0, 0)
    plain = (images / 255 - 0.5) / 0.25
    mixed = (plain + plain.roll(1, 0)) / 2
    torch.testing.assert_close(seen["images"], mixed)
    one_hot = torch.eye(3)[labels]
    targets = 0.75 * one_hot + 0.25 * one_hot.roll(1, 0)
    logits = mixed.flatten(1) @ before["1.weight"].T + before["1.bias"]
    smoothed = 0.9 * targets + 0.1 / 3
    loss = float(-(smoothed * logits.log_softmax(1)).sum(1).mean())
    assert logged.values["train/loss"] == pytest.approx([loss], rel=1e-5)
    right = float((logits.argmax(1) == labels).float().mean())  # three quarters of each image are of its own class
    assert logged.values["train/acc"] == pytest.approx([right])


def test_a_network_that_wants_images_gets_normalised_training_images_before_a_fit_and_no_others():
    class Asking(nn.Sequential):
        def initialize(self, images):
            self.seen = images

    network = Asking(nn.Flatten(), nn.Linear(192, 3))
    module = classifier(network=network)
    images = data(mean=[0.5] * 3, std=[0.25] * 3)
    fit(module, images, epochs=1)
    arrays, indices = images.subset("train")
    torch.testing.assert_close(network.seen, (arrays.images[indices] / 255 - 0.5) / 0.25)
    del network.seen
    trainer().test(module, images, verbose=False)
    assert not hasattr(network, "seen")


def test_a_compiled_network_has_the_same_weights_names_and_logits(monkeypatch):
    # without the compiler of C++, which takes a minute
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    plain, compiled = classifier(), classifier(compile=True)
    for module in (plain, compiled):
        fit(module, data(), epochs=1)
    assert compiled.network._compiled_call_impl is not None
    assert compiled.state_dict().keys() == plain.state_dict().keys()
    torch.testing.assert_close(dict(compiled.state_dict()), dict(plain.state_dict()))
    images = FakeSource().load("test").images
    torch.testing.assert_close(compiled(images), plain(images))


def test_what_is_logged_in_a_fit_and_when():
    logged = Logged()
    fit(classifier(), data(), epochs=4, logger=logged, log_every_n_steps=5)
    assert logged.steps.pop("epoch")
    of_steps = {name: [4, 9] for name in ("train/loss_step", "train/acc_step", "lr_step")}
    of_epochs = {name: [2, 5, 8, 11] for name in ("train/loss", "train/acc", "val/loss", "val/acc", "lr")}
    assert logged.steps == of_steps | of_epochs


# Learning rate


class Forced(nn.Module):
    """Has the validation loss it is told on images of class 0 of 3, whatever they show."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3))
        self.loss = 1.0

    def forward(self, images: Tensor) -> Tensor:
        logits = self.weight.expand(len(images), 3).clone()
        if not self.training:
            logits[:, 0] = -math.log((math.exp(self.loss) - 1) / 2)  # loss = log(1 + 2 exp(-logit))
        return logits


class ForceLosses(Callback):
    """The validation loss of each epoch."""

    def __init__(self, losses) -> None:
        self.losses = losses

    def on_validation_epoch_start(self, trainer, model):
        model.network.weight.data.zero_()
        model.network.loss = 99.0 if trainer.sanity_checking else self.losses[trainer.current_epoch]


def fit_with_losses(losses, *callbacks, epochs=None, **options) -> list[float]:
    """Learning rate of each epoch of a fit with these validation losses: 2 steps an epoch."""
    rates = LearningRates()
    images = ImageData(FakeSource(train=(4, 4, 4), val=(4, 0, 0)), batch_size=6)
    ckpt_path = options.pop("ckpt_path", None)
    model = ImageClassifier(Forced(), **options)
    logged = Logged()
    epochs = epochs or len(losses)
    fit(model, images, ForceLosses(losses), rates, *callbacks, epochs=epochs, ckpt_path=ckpt_path, logger=logged)
    assert logged.values["val/loss"] == pytest.approx(
        losses[epochs - len(logged.values["val/loss"]) : epochs], rel=1e-5
    )
    assert rates.steps[::2] == rates.steps[1::2]
    return rates.steps[::2]


def test_by_default_the_articles_adam_halves_its_rate_after_5_epochs_without_improvement():
    # Epoch 0 is the best; 1 to 6 are no better: 6 > patience 5.
    assert fit_with_losses([1.0] * 9) == [1e-3] * 7 + [5e-4] * 2
    optimizer = classifier(optimizer=ImageClassifier.__init__.__defaults__[0]).configure_optimizers()
    assert type(optimizer) is torch.optim.Adam and optimizer.defaults["weight_decay"] == 1e-4


PLATEAU = functools.partial(ReduceLROnPlateau, factor=0.5, patience=1)
LOSSES = [3.0, 2.0, 2.5, 2.5, 1.0, 1.5, 1.5, 1.5, 1.5]
# worse than the best by then:   1    2 -> halved       1    2 -> halved   1
PLATEAU_RATES = [1.0, 1.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.25, 0.25]


@pytest.mark.parametrize("epochs", [3, 4, 6])
def test_plateau_watches_the_validation_loss_and_goes_on_after_a_resume(epochs):
    options = {"optimizer": sgd, "lr_scheduler": PLATEAU}
    before = fit_with_losses(LOSSES, Checkpoints(), epochs=epochs, **options)
    after = fit_with_losses(LOSSES, ckpt_path=LAST, **options)
    assert before + after == PLATEAU_RATES


def test_plateau_refuses_the_wrong_direction():
    watching = functools.partial(MonitoredPlateau, monitor="val/acc")  # by default mode min
    with pytest.raises(ValueError, match="watches val/acc with mode min: set max"):
        fit(classifier(lr_scheduler=watching), data(), epochs=1)
    fit(classifier(lr_scheduler=functools.partial(watching, mode="max")), data(), epochs=1)


def course(schedule, number: int) -> list[float]:
    """The first rates of a schedule by itself, with SGD at 1.0."""
    made, rates = schedule(sgd([torch.zeros(1)])), []
    for _ in range(number):
        rates += made.get_last_lr()
        made.optimizer.step()
        made.step()
    return rates


COSINE, STEPS = functools.partial(CosineAnnealingLR, T_max=10), functools.partial(StepLR, step_size=2, gamma=0.1)
ONE_CYCLE = functools.partial(OneCycleLR, max_lr=2.0, pct_start=0.4)


@pytest.mark.parametrize(
    ("schedule", "same", "batches", "settings"),
    [
        (CosineAnnealingLR, functools.partial(CosineAnnealingLR, T_max=5), 3, {}),
        (COSINE, COSINE, 3, {}),
        (STEPS, STEPS, 3, {}),
        (None, functools.partial(StepLR, step_size=100), 3, {}),
        (ONE_CYCLE, functools.partial(ONE_CYCLE, total_steps=15), 1, {}),
        (ONE_CYCLE, functools.partial(ONE_CYCLE, total_steps=5), 3, {"accumulate_grad_batches": 3}),
    ],
)
def test_schedules_move_every_epoch_or_optimizer_step_over_the_whole_fit(schedule, same, batches, settings):
    rates = LearningRates()
    fit(classifier(lr_scheduler=schedule), data(), rates, epochs=5, **settings)
    assert rates.steps == pytest.approx(np.repeat(course(same, 15 // batches), batches).tolist())


# Checkpoints


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("run")
    fit(classifier(lr_scheduler=PLATEAU), data(), Checkpoints(), epochs=3, default_root_dir=folder)
    return str(folder / LAST)


def test_checkpoint_loads_as_plain_data_and_knows_the_images(checkpoint):
    content = torch.load(checkpoint, weights_only=True)
    mean, std = data().statistics()
    assert set(content["data"]) == {"class_names", "image_shape", "mean", "std", "tta", "channels_last"}
    assert content["data"]["class_names"] == ["a", "b", "c"]
    assert content["data"]["image_shape"] == [3, 8, 8]
    assert content["data"]["mean"] == pytest.approx(mean) and content["data"]["std"] == pytest.approx(std)
    assert set(content["state_dict"]) == {"network.1.weight", "network.1.bias"}
    assert content["plateau"]["num_bad_epochs"] in (0, 1, 2) and content["plateau"]["best"] > 0


def test_test_of_a_checkpoint_normalises_as_the_fit_did_unless_statistics_are_given(checkpoint):
    fresh, model = data(), classifier()
    metrics = trainer().test(model, fresh, ckpt_path=checkpoint, verbose=False)[0]
    images, labels = images_of(fresh, "test")
    assert fresh.source.loaded == ["test"]  # the training images are not needed for it
    weights = torch.load(checkpoint, weights_only=True)["state_dict"]
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in data().statistics())
    logits = ((images / 255 - mean) / std).flatten(1) @ weights["network.1.weight"].T + weights["network.1.bias"]
    assert metrics["test/loss"] == pytest.approx(cross_entropy(logits, labels), rel=1e-4)
    other = data(mean=[0.1, 0.2, 0.3], std=[0.4, 0.5, 0.6])
    trainer().test(model, other, ckpt_path=checkpoint, verbose=False)
    assert model.normalize.mean.flatten().tolist() == pytest.approx([0.1, 0.2, 0.3])


@pytest.mark.parametrize(
    ("network", "words"),
    [
        (linear().append(nn.Linear(3, 3)), r"network.2.weight is missing in the checkpoint; network.2.bias is missing"),
        (linear(7), r"network.1.weight has shape \[3, 192\] in the checkpoint, \[7, 192\] here"),
    ],
)
def test_checkpoint_of_another_network_names_the_difference(network, words, checkpoint):
    with pytest.raises(ValueError, match=f"another network: .*{words}"):
        trainer().test(classifier(network=network), data(), ckpt_path=checkpoint, verbose=False)


def test_checkpoint_with_other_classes_names_both(checkpoint):
    other = ImageData(FakeSource(train=[3] * 30, test=[1] * 30, names=[f"c{number}" for number in range(30)]))
    words = r"knows the classes a, b, c, but the data has c0, c1, c2, c3, c4, …, c29 \(30 in all\): use data"
    with pytest.raises(ValueError, match=words):
        trainer().test(classifier(network=linear(30)), other, ckpt_path=checkpoint, verbose=False)
