import numpy as np
import pytest
import torch
from helpers import FakeSource, trainer

from litcnn.data import Arrays, ImageData, RandomCrop, RandomFlip


def indices(data: ImageData, split: str) -> list[int]:
    part = data.part(split)
    assert part is not None
    return part.indices.tolist()


def per_class(data: ImageData, split: str) -> list[int]:
    part = data.part(split)
    assert part is not None
    return np.bincount(part.arrays.labels.numpy()[part.indices]).tolist()


@pytest.mark.parametrize(
    ("fraction", "kept", "held_out"),
    [(0.1, [90, 45, 180], [10, 5, 20]), (0.2, [80, 40, 160], [20, 10, 40]), (0.5, [50, 25, 100], [50, 25, 100])],
)
def test_split_cuts_the_fraction_off_every_class(fraction, kept, held_out):
    data = ImageData(FakeSource(train=(100, 50, 200)), val_fraction=fraction)
    assert per_class(data, "train") == kept
    assert per_class(data, "val") == held_out
    assert data.sizes() == {"train": sum(kept), "val": sum(held_out)}
    assert sorted(indices(data, "train") + indices(data, "val")) == list(range(350))


def test_uneven_split_is_off_by_less_than_one_image_a_class():
    data = ImageData(FakeSource(train=(31, 47, 13)), val_fraction=0.1)
    assert len(indices(data, "val")) == 10  # 9.1, up
    for held_out, whole in zip(per_class(data, "val"), (31, 47, 13), strict=True):
        assert abs(held_out - whole * 10 / 91) < 1


def test_split_depends_on_split_seed_alone():
    def held_out(**options) -> list[int]:
        return indices(ImageData(FakeSource(train=(50, 50)), **options), "val")

    assert held_out() == held_out(seed=7) == held_out(batch_size=3)
    assert held_out(split_seed=1) == held_out(split_seed=1, seed=7)
    assert held_out(split_seed=1) != held_out()


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
    for stage in ("test", "predict"):
        data.setup(stage)
    assert [len(list(data.test_dataloader())), len(list(data.predict_dataloader()))] == [1, 1]
    assert source.loaded == ["test"]
    assert data.sizes() == {"test": 15}


def test_a_validation_split_of_the_source_is_taken_as_it_is():
    data = ImageData(FakeSource(train=(20, 20, 20), val=(3, 4, 5)), val_fraction=0.5)
    assert per_class(data, "train") == [20, 20, 20]
    assert per_class(data, "val") == [3, 4, 5]


def test_val_fraction_0_trains_on_everything_without_validation():
    data = ImageData(FakeSource(train=(7, 8, 9)), val_fraction=0)
    data.trainer = trainer()
    data.setup("fit")
    assert data.sizes() == {"train": 24}
    assert data.val_dataloader() == []
    with pytest.raises(ValueError, match=r"FakeSource has no val images with data.val_fraction 0"):
        data.setup("validate")


def test_statistics_are_those_of_the_training_images_alone():
    source = FakeSource(train=(40, 20, 20), shape=(3, 8, 6))
    data = ImageData(source, val_fraction=0.25)
    images = source.load("train").images.numpy()[indices(data, "train")] / 255
    mean, std = data.statistics()
    np.testing.assert_allclose(mean, images.mean((0, 2, 3)), atol=1e-7)
    np.testing.assert_allclose(std, images.std((0, 2, 3)), atol=1e-7)
    whole = source.load("train").images.numpy() / 255
    assert np.abs(np.array(mean) - whole.mean((0, 2, 3))).max() > 1e-4  # so the validation images would have shown


def test_statistics_of_more_than_one_chunk_and_of_one_colour():
    class Many(FakeSource):
        def load(self, split):
            images = np.random.default_rng(0).integers(0, 256, (2500, 2, 4, 4), dtype=np.uint8)
            images[:, 1] = 77
            return Arrays(torch.from_numpy(images), torch.arange(2500) % 2) if split == "train" else None

    source = Many(train=(1, 1))
    mean, std = ImageData(source, val_fraction=0).statistics()
    images = source.load("train").images.numpy() / 255
    np.testing.assert_allclose(mean, images.mean((0, 2, 3)), atol=1e-7)
    np.testing.assert_allclose(std, images.std((0, 2, 3)), atol=1e-6)


def test_given_statistics_are_used_and_nothing_is_read_for_them():
    source = FakeSource()
    data = ImageData(source, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    assert data.statistics() == ([0.1, 0.2, 0.3], [0.4, 0.5, 0.6])
    assert source.loaded == []


def test_only_training_batches_are_shuffled_and_augmented():
    source = FakeSource(train=(30, 30, 30), test=(10, 10, 10))
    data = ImageData(source, batch_size=16, val_fraction=0.2, augment=[RandomCrop(2), RandomFlip()])
    data.trainer = trainer()
    for loader, split, stored in (
        (data.val_dataloader(), "val", "train"),
        (data.test_dataloader(), "test", "test"),
        (data.predict_dataloader(), "test", "test"),
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


def test_loaders_hold_the_batch_size_seed_and_place_of_the_trainer():
    data = ImageData(FakeSource(train=(50, 50)), batch_size=30, val_fraction=0, seed=5)
    data.trainer = trainer()
    loader = data.train_dataloader()
    assert [len(labels) for _, labels in loader] == [30, 30, 30, 10]
    assert (loader.seed, loader.rank, loader.world_size) == (5, 0, 1)
    data.trainer.fit_loop.epoch_progress.current.completed = 3
    data.trainer.fit_loop.epoch_loop.batch_progress.current.ready = 2
    assert loader.place() == (data.trainer.current_epoch, 2) == (3, 2)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"batch_size": 0}, r"data.batch_size is 0: 1 or more"),
        ({"val_fraction": 1.0}, r"data.val_fraction is 1.0: a fraction of 0 to below 1"),
        ({"val_fraction": -0.1}, r"data.val_fraction is -0.1"),
        ({"mean": [0.5] * 3}, r"data.mean and data.std go together"),
        ({"std": [0.5] * 3}, r"data.mean and data.std go together"),
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
        (FakeSource(test=None), "predict", "FakeSource has no test images"),
        (FakeSource(train=(0, 0)), "fit", "FakeSource: the train split is empty"),
        (
            FakeSource(train=(5, 5, 5), names=["cat", "dog"]),
            "fit",
            "labels of the train split run from 0 to 2, but there are 2 classes: labels 0 to 1 are allowed",
        ),
        (FakeSource(test=(5, 5, 5), names=["cat", "dog"]), "test", "labels of the test split run from 0 to 2"),
        (FakeSource(train=(20, 1)), "fit", "data.val_fraction 0.1 of 21 training images cannot be held out class by"),
        (FakeSource(train=(2, 2, 2)), "fit", "data.val_fraction 0.1 of 6 training images cannot be held out class by"),
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


def test_setup_prepares_the_source():
    source = FakeSource()
    data = ImageData(source)
    data.prepare_data()
    data.setup("fit")
    assert source.prepared == 2
    assert data.class_names == ["a", "b", "c"]
