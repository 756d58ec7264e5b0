import os
from pathlib import Path
from types import SimpleNamespace

import pytest
from streams import FakeS3, data_of, files, write

from litengine.data import Stream
from litengine.data.sources import stream_writer

pytestmark = pytest.mark.usefixtures("small_shards")


def test_a_stream_is_written_once():
    Path("stream").mkdir()  # an empty folder is taken
    write(data_of())
    before = {path: path.stat().st_mtime_ns for path in Path("stream").rglob("*")}
    assert write(data_of()).seconds is None
    with pytest.raises(ValueError, match="stream holds a stream of other images"):
        write(data_of(train=(40, 31, 34)))
    assert {path: path.stat().st_mtime_ns for path in Path("stream").rglob("*")} == before


def test_a_folder_with_something_else_is_left_alone():
    Path("stream").mkdir()
    Path("stream/thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match="is there, and is not a stream"):
        write(data_of())
    assert files(Path()).keys() == {"stream/thesis.txt", ".stream.lock"}


def test_a_full_disk_leaves_nothing(monkeypatch):
    def full(pixels):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(stream_writer, "histogram", full)
    with pytest.raises(OSError, match="No space left"):
        write(data_of())
    monkeypatch.setattr(stream_writer.shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(OSError, match=r"the stream needs 0\.0 GB"):
        write(data_of())
    assert files(Path()).keys() == {".stream.lock"}


@pytest.mark.parametrize("killed_at", [2, 13])
def test_a_run_that_was_killed_leaves_no_stream_and_the_next_one_makes_it(killed_at):
    write(data_of(val_fraction=0.2), "whole")
    killed = os.fork()
    if killed == 0:
        numbers = iter(range(100))
        stream_writer._leave = lambda folder: os._exit(9) if next(numbers) == killed_at else None
        try:
            write(data_of(val_fraction=0.2))
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(killed, 0)[1]) == 9
    assert files(Path("stream.partial"))
    with pytest.raises(ValueError, match="stream does not exist; make it with: python main.py prepare"):
        Stream("stream").prepare()
    write(data_of(val_fraction=0.2))
    assert files(Path("stream")) == files(Path("whole"))
    assert not Path("stream.partial").exists()


@pytest.mark.parametrize("to", ["gs://bucket/folder", "s3://", "s3://bucket"])
def test_places_that_cannot_be_written(to):
    with pytest.raises(ValueError, match=r"--to is \w+://.*s3://bucket/folder"):
        write(data_of(), to)


def test_what_is_uploaded_is_what_a_folder_would_hold(store, monkeypatch):
    uploads = []
    upload = FakeS3.upload_file
    monkeypatch.setattr(FakeS3, "upload_file", lambda *args: (uploads.append(args[-1]), upload(*args)))
    write(data_of(), "folder")
    write(data_of(), "s3://bucket/deep/er/")
    assert files(Path("bucket/deep/er")) == files(Path("folder"))
    assert uploads[-1] == "deep/er/contents/index.json"  # what makes it a stream
    with pytest.raises(OSError, match=r"cannot write to s3://bucket/forbidden: .*403.*Forbidden"):
        write(data_of(), "s3://bucket/forbidden")
