from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import FakeSource, trainer
from lightning.pytorch import Trainer

from litcnn.augment import RandomCrop, RandomFlip
from litcnn.data import ImageData
from litengine import datamodule


def indices(data: ImageData, split: str) -> list[int]:
    part = data.subset(split)
    return part.indices.tolist()


def per_class(data: ImageData, split: str) -> list[int]:
    part = data.subset(split)
    return np.bincount(part.arrays.labels.numpy()[part.indices]).tolist()


@pytest.mark.parametrize(
    ("fraction", "kept", "held_out"), [(0.1, [90, 45, 180], [10, 5, 20]), (0.5, [50, 25, 100], [50, 25, 100])]
)
def test_split_cuts_the_fraction_off_every_class(fraction, kept, held_out):
    data = ImageData(FakeSource(train=(100, 50, 200)), val_fraction=fraction)
    assert per_class(data, "train") == kept
    assert per_class(data, "val") == held_out
    assert data.sizes() == {"train": sum(kept), "val": sum(held_out)}
    assert sorted(indices(data, "train") + indices(data, "val")) == list(range(350))


@pytest.mark.parametrize("folds", [{}, {"folds": 5, "fold": 2}])
def test_split_and_folds_depend_on_split_seed_alone(folds):
    def held_out(**options) -> list[int]:
        return indices(ImageData(FakeSource(train=(50, 50)), **folds, **options), "val")

    assert held_out() == held_out(seed=7) == held_out(batch_size=3)
    assert held_out(split_seed=1) == held_out(split_seed=1, seed=7)
    assert held_out(split_seed=1) != held_out()
    assert not folds or held_out(val_fraction=0) == held_out() != list(range(40, 60))


@pytest.mark.parametrize(("images", "folds"), [((30, 15, 60), 5), ((31, 14, 7), 4)])
def test_folds_are_disjoint_cover_everything_and_have_every_class_evenly(images, folds):
    parts = [ImageData(FakeSource(train=images), folds=folds, fold=fold) for fold in range(folds)]
    for data in parts:
        assert sorted(indices(data, "train") + indices(data, "val")) == list(range(sum(images)))
        assert indices(data, "train") == sorted(indices(data, "train"))
    assert sorted(index for data in parts for index in indices(data, "val")) == list(range(sum(images)))
    counts = np.array([per_class(data, "val") for data in parts])
    assert counts.sum(0).tolist() == list(images) and (np.ptp(counts, axis=0) <= 1).all()


def test_a_class_with_fewer_images_than_folds_is_named():
    source = FakeSource(train=(20, 3, 9), names=["cat", "lynx", "dog"])
    with pytest.raises(
        ValueError, match=r"data.folds is 5, but there are only 3 training images of 'lynx'.*choose 3 folds or fewer"
    ):
        ImageData(source, folds=5).setup("fit")
    ImageData(source, folds=3).setup("fit")
    with pytest.raises(ValueError, match="only 1 training images of 'b'.*no number of folds"):
        ImageData(FakeSource(train=(20, 1)), folds=2).setup("fit")


def test_a_source_with_validation_images_has_nothing_to_fold():
    data = ImageData(FakeSource(train=(20, 20, 20), val=(3, 4, 5)), folds=5)
    with pytest.raises(ValueError, match=r"FakeSource has validation images of its own.*leave data.folds out"):
        data.setup("fit")


def test_fit_and_validate_leave_the_test_split_unread_and_test_the_others():
    source = FakeSource()
    data = ImageData(source, val_fraction=0.2)
    data.trainer = trainer()
    for stage in ("fit", "validate"):
        data.setup(stage)
    for loader in (data.train_dataloader(), data.val_dataloader()):
        list(loader)
    data.statistics()
    assert source.loaded == ["train", "val"]  # each once

    source = FakeSource()
    data = ImageData(source)
    data.trainer = trainer()
    data.setup("test")
    assert len(list(data.test_dataloader())) == 1
    assert source.loaded == ["test"]
    assert data.sizes() == {"test": 15}


def test_val_fraction_0_trains_on_everything_without_validation():
    data = ImageData(FakeSource(train=(7, 8, 9)), val_fraction=0)
    data.trainer = trainer()
    data.setup("fit")
    assert data.sizes() == {"train": 24}
    assert data.val_dataloader() == []
    with pytest.raises(ValueError, match=r"FakeSource has no val images with data.val_fraction 0"):
        data.setup("validate")


def test_statistics_are_those_of_the_training_images_alone(monkeypatch):
    monkeypatch.setattr(datamodule, "CHUNK_BYTES", 1000)  # several chunks
    source = FakeSource(train=(40, 20, 20), shape=(3, 8, 6))
    data = ImageData(source, val_fraction=0.25)
    images = source.load("train").images.numpy()[indices(data, "train")] / 255
    mean, std = data.statistics()
    np.testing.assert_allclose(mean, images.mean((0, 2, 3)), atol=1e-7)
    np.testing.assert_allclose(std, images.std((0, 2, 3)), atol=1e-7)
    whole = source.load("train").images.numpy() / 255
    assert np.abs(np.array(mean) - whole.mean((0, 2, 3))).max() > 1e-4  # so the validation images would have shown


def test_of_very_many_images_some_are_measured(monkeypatch):
    source = FakeSource(train=(40, 40, 40))
    monkeypatch.setattr(datamodule, "MEASURED_BYTES", 30 * 192)
    mean, std = ImageData(source, val_fraction=0).statistics()
    images = source.load("train").images.numpy()[np.linspace(0, 119, 30).astype(int)] / 255
    np.testing.assert_allclose(mean, images.mean((0, 2, 3)), atol=1e-7)
    np.testing.assert_allclose(std, images.std((0, 2, 3)), atol=1e-7)


def test_only_training_batches_are_shuffled_and_augmented():
    source = FakeSource(train=(30, 30, 30), test=(10, 10, 10))
    data = ImageData(source, batch_size=16, val_fraction=0.2, augment=[RandomCrop(2), RandomFlip()])
    data.trainer = trainer()
    for loader, split, stored in (
        (data.val_dataloader(), "val", "train"),
        (data.test_dataloader(), "test", "test"),
    ):
        images, labels = (torch.cat(parts) for parts in zip(*loader, strict=True))
        arrays = source.load(stored)
        assert torch.equal(images, arrays.images[indices(data, split)])
        assert torch.equal(labels, arrays.labels[indices(data, split)])

    images, labels = (torch.cat(parts) for parts in zip(*data.train_dataloader(), strict=True))
    arrays = source.load("train")
    order = data.train_dataloader().order(0)
    assert sorted(order) == indices(data, "train") != list(order)
    assert torch.equal(labels, arrays.labels[order])
    unchanged = [torch.equal(image, original) for image, original in zip(images, arrays.images[order], strict=True)]
    assert sum(unchanged) < 10  # 1 in 50 by chance


def test_balanced_sampling_draws_every_class_equally_often_and_anew_each_epoch():
    data = ImageData(FakeSource(train=(300, 30, 90)), val_fraction=0, sampling="balanced")
    data.trainer = trainer()
    loader = data.train_dataloader()
    orders = [loader.order(epoch) for epoch in range(20)]
    counts = np.bincount(data.subset("train").arrays.labels.numpy()[np.concatenate(orders)])
    assert counts.sum() == 20 * 420 and np.abs(counts / 2800 - 1).max() < 0.05
    assert not np.array_equal(orders[0], orders[1]) and np.array_equal(orders[0], loader.order(0))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"batch_size": 0}, r"data.batch_size is 0: choose 1 or more"),
        ({"val_fraction": 1.0}, r"data.val_fraction is 1.0: choose a fraction of 0 to below 1"),
        ({"mean": [0.5] * 3}, r"data.mean and data.std go together"),
        ({"folds": 1}, r"data.folds is 1: choose 2 or more"),
        ({"folds": 5, "fold": 5}, r"data.fold is 5: choose 0 to 4"),
        ({"fold": 1}, r"data.fold is 1: it needs data.folds"),
    ],
)
def test_settings_that_cannot_work_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        ImageData(FakeSource(), **options)


@pytest.mark.parametrize(
    ("source", "stage", "words"),
    [
        (FakeSource(train=None), "fit", "FakeSource has no train images"),
        (FakeSource(test=None), "test", "FakeSource has no test images"),
        (FakeSource(train=(0, 0)), "fit", "FakeSource: the train split is empty"),
        (FakeSource(test=(5, 5, 5), names=["cat", "dog"]), "test", "labels of the test split run from 0 to 2"),
        (FakeSource(train=(2, 2, 1)), "fit", "data.val_fraction 0.1 of 5 training images cannot be held out class by"),
    ],
)
def test_data_that_cannot_work_is_refused_in_setup(source, stage, words):
    with pytest.raises(ValueError, match=words):
        ImageData(source).setup(stage)


def test_negative_labels_are_refused():
    class Negative(FakeSource):
        def load(self, split):
            arrays = super().load(split)
            return arrays and arrays._replace(labels=arrays.labels - 1)

    with pytest.raises(ValueError, match="labels of the train split run from -1 to 1, but there are 3 classes"):
        ImageData(Negative()).setup("fit")


# Where the arrays lie


def on_device(device: str, free: int, monkeypatch, **options) -> ImageData:
    """Of 30 training images of 192 bytes, each with a label of 8, and half as many test images: on a device with so
    many bytes free."""
    data = ImageData(FakeSource(), val_fraction=0.2, **options)
    strategy = SimpleNamespace(root_device=torch.device(device))
    limits = {"limit_val_batches": 1.0, "limit_test_batches": 1.0, "overfit_batches": 0.0}
    data.trainer = SimpleNamespace(strategy=strategy, global_rank=0, world_size=1, **limits)
    monkeypatch.setattr(datamodule, "free_memory", lambda asked: free if asked == torch.device(device) else 0)
    return data


def test_what_fits_in_a_quarter_of_the_free_memory_lies_on_the_device_once(monkeypatch):
    data = on_device("meta", 4 * 30 * 200, monkeypatch)
    train, val, test = data.train_dataloader(), data.val_dataloader(), data.test_dataloader()
    for loader in (train, val, test):
        assert (loader.images.device.type, loader.labels.device.type, loader.prefetch) == ("meta", "meta", 0)
    assert train.images is val.images and train.labels is val.labels
    assert (train.images.shape, train.images.dtype, test.images.shape) == ((30, 3, 8, 8), torch.uint8, (15, 3, 8, 8))
    assert data.train_dataloader().images is train.images  # and no second time
    assert data.subset("train").arrays.images.device.type == "cpu"


def test_what_does_not_fit_stays_in_host_memory_and_is_fetched_ahead_for_a_gpu(monkeypatch):
    data = on_device("cuda:0", 4 * 30 * 200 - 1, monkeypatch)
    for loader in (data.train_dataloader(), data.val_dataloader()):
        assert (loader.images.device.type, loader.labels.device.type, loader.prefetch) == ("cpu", "cpu", 2)
        assert loader.images is data.subset("train").arrays.images


def test_on_a_cpu_nothing_is_moved_or_fetched_ahead():
    assert datamodule.free_memory(torch.device("cpu")) == 0
    data = ImageData(FakeSource(), val_fraction=0.2)
    data.trainer = trainer()
    for loader in (data.train_dataloader(), data.val_dataloader()):
        assert loader.images is data.subset("train").arrays.images and loader.prefetch == 0


@pytest.mark.gpu
@pytest.mark.parametrize("free", [0, None])
def test_a_gpu_gets_the_batches_of_the_cpu(free, monkeypatch):
    if free is not None:
        monkeypatch.setattr(datamodule, "free_memory", lambda device: free)

    def batches(accelerator: str) -> list[torch.Tensor]:
        data = ImageData(FakeSource(train=(30, 30, 30)), batch_size=16, augment=[RandomCrop(2), RandomFlip()])
        data.trainer = Trainer(accelerator=accelerator, devices=1, logger=False, enable_checkpointing=False)
        loaders = (data.train_dataloader(), data.val_dataloader())
        return [tensor.cpu() for loader in loaders for batch in loader for tensor in batch]

    assert all(torch.equal(a, b) for a, b in zip(batches("gpu"), batches("cpu"), strict=True))
