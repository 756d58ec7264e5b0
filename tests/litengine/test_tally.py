import pytest
import torch

from litengine.tally import Tally


@pytest.mark.parametrize("batches", [3, 2500])
def test_sums_are_those_of_all_batches_whatever_their_sizes(batches):
    generator = torch.Generator().manual_seed(0)
    tally, loss, correct, images = Tally(torch.device("cpu")), 0.0, 0, 0
    for number in range(batches):
        hits = torch.rand(1 + number % 5, generator=generator) < 0.5
        value = torch.rand((), generator=generator)
        tally.add(value, hits)
        loss, correct, images = loss + float(value) * len(hits), correct + int(hits.sum()), images + len(hits)
    sums = tally.sums()
    assert sums[1:].tolist() == [correct, images]
    assert float(sums[0]) == pytest.approx(loss, rel=1e-5)
    again = Tally(torch.device("cpu"))
    again.set(sums)  # as a resumed run does
    again.add(torch.tensor(2.0), torch.tensor([True, False]))
    assert again.sums()[1:].tolist() == [correct + 1, images + 2]
    tally.reset()
    assert tally.sums().tolist() == [0, 0, 0]
