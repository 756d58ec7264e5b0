"""Checkpoint files survive kills, full disks and flipped bits, and cannot run code; real files, real processes."""

import errno
import os
import pickle
import random
import resource
import signal
import tempfile
import time
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import FakeSource, fit, trainer
from lightning.pytorch.plugins.io import TorchCheckpointIO
from project_for_tests import ImageClassifier, ImageData
from torch import Tensor, nn

from litengine.training.checkpoint_files import CheckpointFiles, newest_intact, read, save

LAST, PREVIOUS, BEST = Path("c/last.ckpt"), Path("c/previous.ckpt"), Path("c/best.ckpt")


def content(step: int = 1, numbers: int = 1000) -> dict[str, Any]:
    weights = torch.arange(numbers, dtype=torch.float32) + step
    return {"global_step": step, "config": {"name": "a"}, "data": {}, "state_dict": {"w": weights, "b": weights[:3]}}


def same(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    return torch.equal(a, b) if isinstance(a, Tensor) else bool(a == b)


def files() -> list[str]:
    return sorted(os.listdir("c"))


class Payload:
    """What an attacker puts into a pickle."""

    def __reduce__(self) -> Any:
        return os.system, (f"touch {Path('RAN').absolute()}",)


# Writing


def in_a_process(run: Callable[[], None], kill_at: Callable[[], bool] | None = None) -> int:
    """Runs it in its own process, which is killed as soon as `kill_at` is true; its exit code, or minus the signal."""
    process = os.fork()
    if process == 0:
        try:
            run()
            os._exit(0)
        finally:
            os._exit(1)
    if kill_at is not None:
        while not kill_at():
            time.sleep(1e-4)
        os.kill(process, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def test_what_is_saved_is_read_and_the_one_before_is_kept() -> None:
    for step in (1, 2, 3):
        CheckpointFiles().save_checkpoint(content(step), str(LAST))
        CheckpointFiles().save_checkpoint(content(10 * step), BEST)
    assert files() == ["best.ckpt", "last.ckpt", "previous.ckpt"]
    for path, step in ((LAST, 3), (PREVIOUS, 2), (BEST, 30)):
        assert same(read(path), content(step)), path
        assert same(CheckpointFiles().load_checkpoint(path), content(step)), path


@pytest.mark.parametrize("before", [1, 2], ids=["no previous", "a previous"])
def test_kill_between_any_two_calls_leaves_the_old_or_the_new_last(
    before: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in range(1, before + 1):
        save(content(step), LAST)

    def save_and_die(moment: int) -> None:
        left = iter(range(moment, -1, -1))

        def dying(call: Any) -> Any:
            def wrapped(*args: Any, **kwargs: Any) -> Any:
                if next(left) == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return call(*args, **kwargs)

            return wrapped

        for name in ("fsync", "link", "replace", "unlink"):
            monkeypatch.setattr(os, name, dying(getattr(os, name)))
        save(content(before + 1), LAST)

    seen, moment = [], 0
    while in_a_process(partial(save_and_die, moment)) == -signal.SIGKILL:
        last = read(LAST)["global_step"]
        seen.append(last)
        assert last in (before, before + 1)
        assert same(read(LAST), content(last))
        if PREVIOUS.exists():
            assert read(PREVIOUS)["global_step"] in range(1, before + 2)
        assert newest_intact("c").path == LAST and newest_intact("c").skipped == []
        assert not {str(path) for path in Path("c").glob("*.ckpt")} - {"c/last.ckpt", "c/previous.ckpt"}
        moment += 1
    assert len(seen) >= 5 and seen[0] == before and seen[-1] == before + 1
    assert files() == ["last.ckpt", "previous.ckpt"]  # the last process ran through, and took away what the others left


def test_kill_while_a_large_file_is_written() -> None:
    save(content(1), LAST)
    large = content(2, numbers=10_000_000)  # 40 MB
    unfinished = Path("c/.last.ckpt.partial")
    for size in (1, 10_000_000):  # bytes that are written when the kill comes
        killed = in_a_process(
            lambda: save(large, LAST), lambda size=size: unfinished.is_file() and unfinished.stat().st_size >= size
        )
        assert killed == -signal.SIGKILL and 0 < unfinished.stat().st_size < 40_000_000
        assert same(read(LAST), content(1))
    save(content(3), LAST)
    assert files() == ["last.ckpt", "previous.ckpt"] and same(read(LAST), content(3))


def test_a_damaged_last_never_takes_the_place_of_a_whole_previous_before_the_new_one_is_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    save(content(1), LAST)
    save(content(2), LAST)
    os.truncate(LAST, 1000)
    whole = []
    replace = os.replace

    def watched(*args: Any) -> None:
        whole.append(newest_intact("c").step)
        replace(*args)

    monkeypatch.setattr(os, "replace", watched)
    save(content(3), LAST)
    assert whole == [1, 3]


def test_without_hard_links_the_one_before_is_kept_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*args: Any) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refused)
    for step in (1, 2, 3):
        save(content(step), LAST)
    assert files() == ["last.ckpt", "previous.ckpt"]
    assert (read(LAST)["global_step"], read(PREVIOUS)["global_step"]) == (3, 2)


def test_full_disk_leaves_the_old_one() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def save_in_little_room(step: int) -> str:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))  # it fails as a full disk does
        try:
            with pytest.raises(
                OSError, match=r"cannot write c/last.ckpt: File too large; 4\.0 MB are needed, "
            ) as raised:
                save(content(step, numbers=1_000_000), LAST)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert raised.value.errno == errno.EFBIG
        return str(raised.value)

    assert "Nothing was saved before: make room, and start again" in save_in_little_room(6)
    save(content(7), LAST)
    assert "c/last.ckpt (step 7) is whole: make room, then `fit --resume .` continues" in save_in_little_room(8)
    assert files() == ["last.ckpt"] and same(read(LAST), content(7))


def test_directory_that_is_not_ours_to_write_in() -> None:
    directory = Path(tempfile.mkdtemp())  # tmp_path is closed to the user we become
    save(content(1), directory / "last.ckpt")
    directory.chmod(0o555)
    is_root = os.geteuid() == 0
    try:
        if is_root:
            os.seteuid(65534)
        with pytest.raises(
            OSError, match=r"Permission denied\. .*last.ckpt \(step 1\) is whole: make the directory"
        ) as e:
            save(content(2), directory / "last.ckpt")
        assert e.value.errno == 13
    finally:
        if is_root:
            os.seteuid(0)
    assert os.listdir(directory) == ["last.ckpt"] and same(read(directory / "last.ckpt"), content(1))


def test_what_could_not_be_loaded_again_is_not_saved() -> None:
    save(content(1), LAST)
    with pytest.raises(ValueError, match=r"was not written: it holds pathlib.*Path, which cannot be loaded again"):
        save(content(2) | {"callbacks": {"mine": Path("somewhere")}}, LAST)
    assert files() == ["last.ckpt"] and same(read(LAST), content(1))


# Damage


def test_flipped_bits_are_refused_or_change_nothing() -> None:
    save(content(), LAST)
    whole = LAST.read_bytes()
    positions = random.Random(0).sample(range(8 * len(whole)), 100)
    refused = 0
    for position in positions:
        damaged = bytearray(whole)
        damaged[position // 8] ^= 1 << position % 8
        LAST.write_bytes(damaged)
        try:
            found = CheckpointFiles().load_checkpoint(LAST)
        except ValueError:
            refused += 1
        else:
            assert same(found, content()), position
    assert refused > 50


def directory_bit(data: bytes) -> tuple[int, int]:
    """Byte and bit, outside the CRC, that make the weights a directory."""
    entry = data.rindex(b"archive/data/0") - 46  # of the central directory, where its attributes are at byte 38
    assert data[entry : entry + 4] == b"PK\1\2"
    return entry + 38, 0x10


def weight_bit(data: bytes) -> tuple[int, int]:
    return data.index(content()["state_dict"]["w"].numpy().tobytes()) + 2000, 1


@pytest.mark.parametrize("place", [directory_bit, weight_bit])
def test_a_flipped_bit_that_stock_lightning_loads_is_refused(place: Callable[[bytes], tuple[int, int]]) -> None:
    save(content(), LAST)
    damaged = bytearray(LAST.read_bytes())
    byte, bit = place(bytes(damaged))
    damaged[byte] ^= bit
    LAST.write_bytes(damaged)
    TorchCheckpointIO().load_checkpoint(LAST)  # other weights, or what is in memory, without an error
    with pytest.raises(ValueError, match="its record archive/data/0 is damaged"):
        CheckpointFiles().load_checkpoint(LAST)


@pytest.mark.parametrize(
    "damage", [lambda data: b"", lambda data: data[: len(data) // 2], lambda data: bytes(len(data))]
)
def test_damage_is_named_with_the_remedy(damage: Callable[[bytes], bytes]) -> None:
    save(content(1), LAST)
    save(content(2), LAST)
    LAST.write_bytes(damage(LAST.read_bytes()))
    for load in (read, CheckpointFiles().load_checkpoint):
        with pytest.raises(
            ValueError, match="c/last.ckpt is not an intact checkpoint: it is empty.* There are c/previous"
        ):
            load(LAST)


def test_files_of_other_kinds_are_refused() -> None:
    torch.save(content(), "old", _use_new_zipfile_serialization=False)
    with zipfile.ZipFile("packed", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("packed/data.pkl", pickle.dumps(content()["config"]))
    os.mkfifo("fifo")  # opening it would never end
    reasons = {"old": "no file of torch.save", "packed": "is compressed"}
    for path, reason in (reasons | dict.fromkeys((".", "fifo", "/dev/zero"), "it is not a file")).items():
        with pytest.raises(ValueError, match=reason):
            read(path)
    torch.save([1], "list")
    with pytest.raises(ValueError, match="list is not a checkpoint of this project: it carries no config"):
        read("list")


def test_no_file_names_those_that_are_near() -> None:
    save(content(), LAST)
    for load in (read, CheckpointFiles().load_checkpoint):
        with pytest.raises(FileNotFoundError, match=r"no checkpoint at c/best.ckpt: there are c/last.ckpt"):
            load(BEST)
        with pytest.raises(FileNotFoundError, match="`fit` makes one"):
            load("nowhere/best.ckpt")


def test_newest_intact_is_the_last_or_the_one_before_and_only_then_the_best() -> None:
    assert newest_intact("c") == (None, -1, [])
    save(content(6), BEST)
    assert newest_intact("c") == (BEST, 6, [])
    save(content(1), LAST)
    save(content(5), LAST)
    assert newest_intact("c") == (LAST, 5, [])
    os.truncate(LAST, 0)
    path, step, skipped = newest_intact("c")
    assert (path, step) == (PREVIOUS, 1)
    assert [message.split(".")[0] for message in skipped] == ["c/last"] and "it is empty" in skipped[0]
    os.truncate(PREVIOUS, 10)
    assert newest_intact("c")[:2] == (BEST, 6)
    os.truncate(BEST, 3000)
    assert newest_intact("c").path is None and len(newest_intact("c").skipped) == 3


# Addresses and payloads


@pytest.mark.parametrize(
    "path", ["local://{}/victim", "{}/victim", "run/../victim/weights.ckpt", "{}/victim/notes.txt"]
)
def test_only_checkpoint_files_are_removed(path: str, tmp_path: Path) -> None:
    """Lightning's ModelCheckpoint takes the paths that it removes from the checkpoint that a fit starts from."""
    (tmp_path / "victim").mkdir()
    (tmp_path / "run").mkdir()
    files = [tmp_path / "victim" / name for name in ("notes.txt", "weights.ckpt")]
    for file in files:
        file.touch()
    CheckpointFiles().remove_checkpoint(path.format(tmp_path))
    assert all(file.exists() for file in files)
    CheckpointFiles().remove_checkpoint(files[1])
    assert not files[1].exists()


def test_addresses_are_refused() -> None:
    for load in (read, CheckpointFiles().load_checkpoint):
        with pytest.raises(ValueError, match=r"http://a.b/c.ckpt is an address, .* download it first"):
            load("http://a.b/c.ckpt")


def test_payload_runs_nowhere_and_does_in_stock() -> None:
    def parts() -> tuple[ImageClassifier, ImageData]:
        return ImageClassifier(nn.Sequential(nn.Flatten(), nn.Linear(192, 3))), ImageData(FakeSource(), batch_size=8)

    fit(*parts(), epochs=1, plugins=[CheckpointFiles()]).save_checkpoint("good.ckpt")
    trainer(plugins=[CheckpointFiles()]).test(*parts(), ckpt_path="good.ckpt", verbose=False)
    torch.save(torch.load("good.ckpt", weights_only=True) | {"callbacks": {"evil": Payload()}}, "evil.ckpt")
    for flag in (None, False):
        with pytest.raises(ValueError, match=r"evil.ckpt was not opened: it asks to call posix.system, but only"):
            trainer(plugins=[CheckpointFiles()]).test(*parts(), ckpt_path="evil.ckpt", weights_only=flag, verbose=False)
    with pytest.raises(ValueError, match="was not opened"):
        read("evil.ckpt")
    assert not Path("RAN").exists()
    trainer().test(*parts(), ckpt_path="evil.ckpt", weights_only=False, verbose=False)
    assert Path("RAN").exists()  # what Lightning does with the same file
