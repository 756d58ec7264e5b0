import signal

import pytest
import torch

from litengine.study.workers import Workers, share, visible_gpus


@pytest.mark.parametrize(
    ("devices", "number", "shares"),
    [
        (["0"], 1, ["0"]),
        (["0", "1", "2", "3"], 2, ["0,2", "1,3"]),
        (["0", "1", "2"], 2, ["0,2", "1"]),
        (["4", "7"], 3, ["4", "7", "4"]),
        ([], 2, [None, None]),
    ],
)
def test_every_gpu_is_used_and_every_worker_has_one(devices, number, shares):
    assert [share(devices, slot, number) for slot in range(number)] == shares


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
def test_visible_gpus_have_the_names_of_the_environment(given, count, names, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if given is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    assert visible_gpus() == names


class Fake:
    """A child that ends after some polls, or when it was asked to stop `needed` times."""

    def __init__(self, name, polls, needed=1):
        self.name, self.polls, self.needed, self.stops = name, polls, needed, 0
        self.devices = self.threads = None

    def poll(self):
        self.polls -= 1
        return 0 if self.polls <= 0 or self.stops >= self.needed else None

    def stop(self):
        self.stops += 1

    def status(self):
        return self.name

    def wait(self):
        pass


@pytest.fixture(autouse=True)
def _fast(monkeypatch):
    monkeypatch.setattr("litengine.study.workers.INTERVAL", 0)
    monkeypatch.setattr("litengine.study.workers.visible_gpus", lambda: ["0", "1"])


def test_at_most_so_many_are_active_and_all_are_yielded():
    active, most, ended = set(), [], []

    def children():
        for index, polls in enumerate((3, 1, 2, 1, 1)):
            active.add(str(index))
            most.append(len(active))
            yield Fake(str(index), polls)

    with Workers(2) as workers:
        for child in workers.run(children()):
            active.remove(child.name)
            ended.append(child)
    assert [child.name for child in ended] == ["1", "0", "2", "3", "4"] and max(most) == 2
    assert [child.devices for child in ended[:2]] == ["1", "0"] and ended[0].threads >= 1


def test_one_worker_has_everything():
    child = Fake("a", 1)
    with Workers(1) as workers:
        assert [*workers.run(iter([child]))] == [child]
    assert child.devices is child.threads is None


def test_stop_stops_all_and_starts_no_more():
    waiting = iter([Fake("a", 99), Fake("b", 99), Fake("c", 99)])
    with Workers(2) as workers:
        ended = [*workers.run(waiting, lambda child: workers.stop())]
    assert {child.name for child in ended} == {"a", "b"} and all(child.stops for child in ended)
    assert next(waiting).name == "c"


def test_active_children_are_stopped_after_an_exception():
    children = [Fake("a", 99), Fake("b", 1)]

    def fail():
        with Workers(2) as workers:
            for _ in workers.run(iter(children)):
                raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert [child.stops for child in children] == [1, 0]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_every_signal_is_passed_on(number):
    child = Fake("a", 99, needed=2)
    before = signal.getsignal(number)
    with Workers(1) as workers:
        assert [*workers.run(iter([child]), lambda _: signal.raise_signal(number))] == [child]
    assert workers.stopped_by == number and child.stops >= 2
    assert signal.getsignal(number) is before
