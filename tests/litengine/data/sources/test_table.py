import csv
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from project_for_tests import ImageData

from litengine.data import CSV

RNG = np.random.default_rng(0)


def write(rows: list[dict[str, str]], name: str = "table.csv") -> str:
    """Writes the table, and an image for each row; returns its path."""
    for row in rows:
        path = Path(row["path"])
        path.parent.mkdir(exist_ok=True, parents=True)
        Image.fromarray(RNG.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(path)
    with Path(name).open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return name


def rows(count: int = 60, **columns) -> list[dict[str, str]]:
    """Two labels in turn; each column is a function of the number."""
    made = []
    for index in range(count):
        extra = {name: str(column(index)) for name, column in columns.items()}
        made.append({"path": f"images/{index}.png", "label": "b" if index % 3 else "a", **extra})
    return made


def source(table: str, **arguments) -> CSV:
    found = CSV(table, image_size=8, **arguments)
    found.prepare()
    return found


def test_splits_and_labels_are_those_of_the_table():
    table = write(rows(split=lambda index: ("train", "val", "test", "train")[index % 4]))
    found = source(table)
    assert found.class_names == ["a", "b"]
    for split, remainders in {"train": (0, 3), "val": (1,), "test": (2,)}.items():
        arrays = found.load(split)
        numbers = [int(Path(path).stem) for path in arrays.paths]
        assert numbers == [index for index in range(60) if index % 4 in remainders]
        assert arrays.labels.tolist() == [int(index % 3 > 0) for index in numbers]
        assert arrays.groups is None
        for image, path in zip(arrays.images, arrays.paths, strict=True):
            np.testing.assert_array_equal(image, np.asarray(Image.open(path)).transpose(2, 0, 1))


def test_numbers_are_sorted_by_value_and_paths_are_relative_to_the_root():
    made = [{"path": f"pictures/{index}.png", "label": str(index)} for index in (10, 9, 2)]
    write(made)
    table = Path("labels.csv")
    table.write_text("label,path,extra\n" + "".join(f"{row['label']},{Path(row['path']).name},x\n" for row in made))
    found = source(str(table), root="pictures", test_fraction=0)
    assert found.class_names == ["2", "9", "10"]
    assert found.load("test") is None


@pytest.mark.parametrize("settings", [{"val_fraction": 0.2}, {"folds": 4, "fold": 1}])
def test_no_group_is_in_two_splits(settings):
    group = np.random.default_rng(1).integers(0, 20, 60)  # groups of both labels
    found = CSV(write(rows(group=lambda index: group[index])), image_size=8, test_fraction=0.2)
    data = ImageData(found, batch_size=8, **settings)
    data.prepare_data()
    groups = {}
    for split in ("train", "val", "test"):
        subset = data.subset(split)
        assert len(subset.indices) >= 5
        groups[split] = {group[int(Path(subset.arrays.paths[index]).stem)] for index in subset.indices}
    assert sum(map(len, groups.values())) == len(set(group))


def test_folds_of_groups_hold_out_every_image_once():
    held_out = []
    table = write(rows(24, group=lambda index: index // 4))
    for fold in range(3):
        data = ImageData(CSV(table, image_size=8, test_fraction=0), batch_size=8, folds=3, fold=fold)
        data.prepare_data()
        held_out += data.subset("val").indices.tolist()
    assert sorted(held_out) == list(range(24))


def test_only_what_changed_is_decoded_again():
    table = write(rows())
    before = source(table).location()
    assert source(table).location() == before
    with Path(table).open("a") as file:
        file.write("images/new.png,a\n")
    Image.new("RGB", (8, 8)).save("images/new.png")
    found = source(table)
    assert found.location() != before
    assert len(found.load("train").labels) + len(found.load("test").labels) == 61


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("file,label\n1.png,a\n", "columns path and label"),
        ("path,label\n", "no images"),
        ("path,label\n1.png,\n", "row 2 has no label"),
        ("path,label,split\n1.png,a,validation\n", "'validation' is unknown"),
        ("path,label\n1.png,a\n1.png,b\n", "1.png is listed 2 times"),
        ("path,label\n1.png,a\n./1.png,b\n", "1.png is listed 2 times"),
        ("path,label,label\n1.png,a,b\n", "the column label is there twice"),
        ("path,label,split\n1.png,black, small,train\n", "row 2 has more cells than the header"),
        ("path,label,split,group\n1.png,a,train,x\n2.png,a,test,x\n", "'x' is in test and train"),
        ("path,label\n1.png,a\n2.png,a\n", "only the label 'a'"),
    ],
)
def test_what_is_wrong_with_a_table_is_refused(content, reason):
    Path("table.csv").write_text(content)
    with pytest.raises(ValueError, match=reason):
        source("table.csv")
    with pytest.raises(FileNotFoundError, match=r"none\.csv"):
        source("none.csv")


def test_a_table_without_end_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "holes").touch()
    os.truncate(tmp_path / "holes", 2**37)
    for path in (tmp_path / "fifo", Path("/dev/zero"), tmp_path, tmp_path / "holes"):
        with pytest.raises(OSError, match="it is not a file"):
            CSV(str(path)).load("train")


def test_a_missing_image_is_named_and_a_wrong_root_is_explained():
    table = write(rows(9))
    Path("elsewhere").mkdir()
    with pytest.raises(ValueError, match=r"no image of table\.csv is in elsewhere.* Set --data\.source\.root"):
        source(table, root="elsewhere")  # as a config for another source leaves it
    Path("images/4.png").unlink()
    with pytest.raises(ValueError, match=r"images/4\.png: there is no such file"):
        source(table)


def test_too_few_groups_for_the_folds_are_refused():
    data = ImageData(CSV(write(rows(12, group=lambda index: index % 3)), image_size=8, test_fraction=0), folds=5)
    data.prepare_data()
    with pytest.raises(ValueError, match="3 groups"):
        data.subset("val")
