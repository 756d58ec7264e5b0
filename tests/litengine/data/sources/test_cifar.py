"""Against a local HTTP server with small archives of CIFAR's format; no network."""

import hashlib
import http.server
import io
import pickle
import tarfile
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from torchvision.datasets import utils

from litengine.data import CIFAR10, CIFAR100
from litengine.data.sources import download

RNG = np.random.default_rng(0)


def pickled(content):
    return pickle.dumps(content, protocol=2)


@pytest.fixture(scope="module")
def files():
    """The files of a CIFAR-10 of 5 x 4 + 6 images and of a CIFAR-100 of 10 + 6."""

    def images(count):
        return RNG.integers(0, 256, (count, 3072), dtype=np.uint8)

    ten = {f"data_batch_{n}": pickled({"data": images(4), "labels": [n, 0, 9, n]}) for n in range(1, 6)}
    ten["test_batch"] = pickled({"data": images(6), "labels": [5, 4, 3, 2, 1, 0]})
    ten["batches.meta"] = pickled(
        {"label_names": ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]}
    )
    hundred = {
        "train": pickled({"data": images(10), "fine_labels": list(range(90, 100))}),
        "test": pickled({"data": images(6), "fine_labels": [0, 1, 2, 3, 4, 99]}),
        "meta": pickled({"fine_label_names": [f"name {n}" for n in range(100)]}),
    }
    return {"CIFAR10": ten, "CIFAR100": hundred}


@pytest.fixture
def archives(files, monkeypatch):
    """Their archives, which torchvision's classes take for the right ones while the test runs."""
    result = {}
    for name, contents in files.items():
        dataset = getattr(torchvision.datasets, name)
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
            for file, content in contents.items():
                info = tarfile.TarInfo(f"{dataset.base_folder}/{file}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
        md5 = {file: hashlib.md5(content).hexdigest() for file, content in contents.items()}
        monkeypatch.setattr(dataset, "train_list", [[file, md5[file]] for file, _ in dataset.train_list])
        monkeypatch.setattr(dataset, "test_list", [[file, md5[file]] for file, _ in dataset.test_list])
        monkeypatch.setattr(dataset, "meta", {**dataset.meta, "md5": md5[dataset.meta["filename"]]})
        monkeypatch.setattr(dataset, "tgz_md5", hashlib.md5(buffer.getvalue()).hexdigest())
        result[name] = buffer.getvalue()
    return result


class Server(http.server.ThreadingHTTPServer):
    """Answers with `content`, or, once for each entry of `plan`, with a status or "drop" (half of it)."""

    def __init__(self, content):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.plan, self.requests = content, [], 0
        self.url = f"http://127.0.0.1:{self.server_port}/cifar.tar.gz"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.requests += 1
        step = self.server.plan.pop(0) if self.server.plan else 200
        if isinstance(step, int) and step != 200:
            self.send_error(step)
            return
        content = self.server.content
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if step == "drop" else content)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(archives, monkeypatch):
    monkeypatch.setattr(download, "BACK_OFF_SECONDS", 0.01)
    with Server(archives["CIFAR10"]) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def assert_loads(source, files):
    train, test = source.load("train"), source.load("test")
    assert source.load("val") is None
    assert source.image_shape == (3, 32, 32)
    batches = [pickle.loads(files["CIFAR10"][f"data_batch_{n}"]) for n in range(1, 6)]
    expected = np.concatenate([batch["data"] for batch in batches]).reshape(-1, 3, 32, 32)
    np.testing.assert_array_equal(train.images, expected)
    assert train.images.dtype == torch.uint8
    assert train.images.is_contiguous()
    assert train.labels.tolist() == [label for n in range(1, 6) for label in (n, 0, 9, n)]
    expected = pickle.loads(files["CIFAR10"]["test_batch"])["data"].reshape(-1, 3, 32, 32)
    np.testing.assert_array_equal(test.images, expected)
    assert test.labels.tolist() == [5, 4, 3, 2, 1, 0]


def left(root):
    return sorted(path.name for path in Path(root).iterdir() if not path.name.startswith("."))


def test_download_once(server, files, place):
    source = CIFAR10(str(place), url=server.url)
    assert source.class_names[3] == "cat"
    assert left(place) == []
    source.prepare()
    assert_loads(source, files)
    assert source.class_names == torchvision.datasets.CIFAR10(place).classes
    CIFAR10(str(place), url=server.url).prepare()
    assert server.requests == 1
    assert left(place) == ["cifar-10-batches-py", "cifar-10-python.tar.gz"]


def test_cifar100_reads_its_names_from_the_archive(server, archives, place):
    server.content = archives["CIFAR100"]
    source = CIFAR100(str(place), url=server.url)
    with pytest.raises(ValueError, match=r"CIFAR100 is not in .*prepare"):
        source.load("train")
    source.prepare()
    assert source.class_names == [f"name {n}" for n in range(100)]
    assert source.load("train").labels.tolist() == list(range(90, 100))
    assert source.load("test").images.shape == (6, 3, 32, 32)


def test_a_dropped_connection_is_tried_again(server, files, place):
    server.plan = [503, "drop"]
    source = CIFAR10(str(place), url=server.url)
    source.prepare()
    assert server.requests == 3
    assert_loads(source, files)


@pytest.mark.parametrize(
    ("trouble", "requests", "message"),
    [
        ([404], 1, r"answers 404 Not Found.*cifar-10-python\.tar\.gz.*--data\.source\.url"),
        (["drop"] * 3, 3, r"tried 3 times: the connection was dropped after [\d,]+ of [\d,]+ bytes"),
        ("CIFAR100", 1, "gave another file than expected: the md5"),
    ],
)
def test_a_download_that_fails_leaves_nothing(server, archives, files, place, trouble, requests, message):
    if trouble == "CIFAR100":
        server.content = archives["CIFAR100"]
    else:
        server.plan = [*trouble]
    source = CIFAR10(str(place), url=server.url)
    with pytest.raises((OSError, ValueError), match=message):
        source.prepare()
    assert server.requests == requests
    assert left(place) == []
    server.content = archives["CIFAR10"]
    source.prepare()
    assert_loads(source, files)


def test_half_an_archive_and_half_unpacked_files_are_not_taken_for_whole(server, archives, files, place):
    (place / "cifar-10-python.tar.gz").write_bytes(archives["CIFAR10"][:1000])
    (place / "cifar-10-batches-py").mkdir()
    (place / "cifar-10-batches-py" / "data_batch_1").write_bytes(b"half")
    source = CIFAR10(str(place), url=server.url)
    with pytest.raises(ValueError, match="or damaged: call prepare"):
        source.load("train")
    source.prepare()
    assert_loads(source, files)
    (place / "cifar-10-batches-py" / "batches.meta").unlink()
    CIFAR10(str(place), url="http://127.0.0.1:9/").prepare()  # from the archive that is there
    assert server.requests == 1
    assert_loads(source, files)


def test_several_at_once_download_and_unpack_once(server, files, place, monkeypatch):
    """Threads with a source each: the lock is between open files, so it holds for them as for processes."""
    real, unpacked = utils.extract_archive, []
    monkeypatch.setattr(utils, "extract_archive", lambda *arguments: unpacked.append(1) or real(*arguments))
    sources = [CIFAR10(str(place), url=server.url) for _ in range(4)]
    threads = [threading.Thread(target=source.prepare) for source in sources]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert server.requests == 1
    assert len(unpacked) == 1  # again would take the files away from whoever reads them
    assert_loads(sources[0], files)


def test_a_root_that_cannot_be_written_and_an_url_that_is_none(server, place):
    url = "http://127.0.0.1:9/cifar.tar.gz"  # nobody listens at "discard": the connection is refused
    archive = place / "cifar-10-python.tar.gz"
    with pytest.raises(OSError, match=rf"{url}.*Connection refused.*{archive}.*--data\.source\.url.*configs/digits"):
        CIFAR10(str(place), url=url).prepare()
    assert left(place) == []
    (place / "file").write_text("")
    with pytest.raises(OSError, match=r"Cannot write cifar-10-python\.tar\.gz or its files in .*file"):
        CIFAR10(str(place / "file"), url=server.url).prepare()
    with pytest.raises(ValueError, match="'mirror' is not an address"):
        CIFAR10(str(place), url="mirror").prepare()
