import signal

import pytest
import torch

from litengine.study.workers import Workers, share, visible_gpus


@pytest.mark.parametrize(
    ("devices", "number", "shares"),
    [
        ("0", 1, ["0"]),
        ("0,1,2,3", 2, ["0,2", "1,3"]),
        ("0,1,2", 2, ["0,2", "1"]),
        ("0", 3, ["0", "0", "0"]),
        ("4,7", 3, ["4", "7", "4"]),
    ],
)
def test_every_gpu_is_used_and_every_worker_has_one(devices, number, shares):
    assert [",".join(share(devices.split(","), place, number)) for place in range(number)] == shares


@pytest.mark.parametrize(
    ("given", "count", "names"),
    [
        (None, 2, ["0", "1"]),
        ("3,5", 2, ["3", "5"]),
        ("", 0, []),
        (None, 0, []),
        ("GPU-1, GPU-2", 2, ["GPU-1", "GPU-2"]),
    ],
)
def test_visible_gpus_are_named_as_the_environment_names_them(given, count, names, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if given is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    assert visible_gpus() == names


class Fake:
    """A child that takes some looks."""

    def __init__(self, name, looks):
        self.name, self.looks, self.stops = name, looks, 0
        self.devices = self.threads = None

    def poll(self):
        self.looks -= 1
        return 0 if self.looks <= 0 or self.stops else None

    def stop(self):
        self.stops += 1

    def wait(self):
        pass


@pytest.fixture(autouse=True)
def _fast(monkeypatch):
    monkeypatch.setattr("litengine.study.workers.INTERVAL", 0)
    monkeypatch.setattr("litengine.study.workers.visible_gpus", lambda: ["0", "1"])


def test_at_most_so_many_are_at_work_and_all_are_yielded():
    waiting = [Fake(str(i), looks) for i, looks in enumerate((3, 1, 2, 1, 1))]
    at_work, most = set(), []
    ended = []
    with Workers(2) as workers:

        def next_child():
            if not waiting:
                return None
            at_work.add(waiting[0].name)
            most.append(len(at_work))
            return waiting.pop(0)

        for child in workers.run(next_child, lambda child: None):
            at_work.remove(child.name)
            ended.append(child)
    assert [child.name for child in ended] == ["1", "0", "2", "3", "4"]
    assert max(most) == 2
    assert [child.devices for child in ended[:2]] == ["1", "0"] and ended[0].threads >= 1


def test_one_worker_has_everything():
    child = Fake("a", 1)
    waiting = [child]
    with Workers(1) as workers:
        assert [*workers.run(lambda: waiting.pop() if waiting else None, lambda child: None)] == [child]
    assert child.devices is child.threads is None


def test_stopping_stops_all_and_starts_no_more():
    waiting = [Fake("a", 99), Fake("b", 99), Fake("c", 99)]
    with Workers(2) as workers:
        ended = [*workers.run(lambda: waiting.pop(0) if waiting else None, lambda child: workers.stop())]
    assert {child.name for child in ended} == {"a", "b"} and all(child.stops for child in ended)
    assert [child.name for child in waiting] == ["c"]


def test_what_is_at_work_is_stopped_where_something_goes_wrong():
    children = [Fake("a", 99), Fake("b", 1)]
    waiting = [*children]

    def go_wrong():
        with Workers(2) as workers:
            for _ in workers.run(lambda: waiting.pop(0) if waiting else None, lambda child: None):
                raise RuntimeError

    with pytest.raises(RuntimeError):
        go_wrong()
    assert [child.stops for child in children] == [1, 0]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_all_and_the_next_one_again(number):
    child = Fake("a", 99)
    child.poll = lambda: 0 if child.stops == 2 else None  # it does not listen at first
    waiting = [child]
    before = signal.getsignal(number)
    with Workers(1) as workers:
        assert [*workers.run(lambda: waiting.pop() if waiting else None, lambda _: signal.raise_signal(number))] == [
            child
        ]
    assert workers.stopped_by == number and child.stops >= 2
    assert signal.getsignal(number) is before
