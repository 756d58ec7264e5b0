"""The program on a GPU: `make test-gpu` runs these tests."""

from pathlib import Path
from unittest import mock

import numpy as np
import onnxruntime
import pytest
import torch
from every_checkpoint import EXACT, resume_from_each
from program import PREDICTIONS, rows

import litcnn
from litcnn.__main__ import main
from litengine.data import Digits

pytestmark = pytest.mark.gpu

CONFIGS = Path(__file__).parents[2] / "configs"
DIGITS = ["fit", "--config", str(CONFIGS / "digits.yaml"), "--config", str(CONFIGS / "with/no_tracker.yaml")]
TOLERANCE = 5e-3  # of probabilities: the test runs in half precision, 1.1e-3 was seen


def fit(*options: str, epochs: int = 3) -> dict[str, torch.Tensor]:
    """The weights at the end of a fit of digits.yaml."""
    main([*DIGITS, "--trainer.max_epochs", str(epochs), "--trainer.enable_progress_bar", "false", *options])
    run = max(Path("runs/digits").iterdir(), key=lambda path: path.stat().st_mtime_ns)
    content = torch.load(run / "checkpoints/last.ckpt", map_location="cpu", weights_only=True)
    weights: dict[str, torch.Tensor] = content["state_dict"]
    return weights


def accuracy() -> float:
    arrays = Digits().load("test")
    found = litcnn.load("best.ckpt").probabilities(arrays.images)
    return float((found.argmax(1) == arrays.labels).float().mean())


@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize("recipe", ["ReduceLROnPlateau", "fast.yaml"])
def test_every_checkpoint_leads_to_the_same_bits(
    recipe: str, graph: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = [*EXACT[recipe], "--trainer.deterministic", "true", "--trainer.max_epochs", "2"]
    if graph:
        options += ["--model.cuda_graph", "true"]
    try:
        number, different = resume_from_each(options, tmp_path / "copies", main)
    finally:
        torch.use_deterministic_algorithms(False)
    assert number > 4 and different == {}


@pytest.mark.parametrize("precision", ["16-mixed", "bf16-mixed", "32-true"])
@pytest.mark.parametrize("graph", ["false", "true"])
def test_every_precision_learns(precision: str, graph: str) -> None:
    fit("--trainer.precision", precision, "--model.cuda_graph", graph)
    assert accuracy() > 0.85


def test_a_compiled_network_learns() -> None:
    fit("--model.compile", "true")
    assert accuracy() > 0.85


@pytest.mark.parametrize("precision", ["16-mixed", "32-true"])
def test_cuda_graph_trains_the_same_weights(precision: str, capfd: pytest.CaptureFixture[str]) -> None:
    """With dropout, BatchNorm, clipping and a smaller last batch."""
    options = ("--trainer.precision", precision, "--trainer.deterministic", "true", "--seed_everything", "3")
    record = torch.cuda.make_graphed_callables
    try:
        expected = fit(*options, epochs=1)
        with mock.patch.object(torch.cuda, "make_graphed_callables", side_effect=record) as calls:
            found = fit(*options, "--model.cuda_graph", "true", epochs=1)
    finally:
        torch.use_deterministic_algorithms(False)
    assert calls.call_count == 1 and "cuda_graph:" not in "".join(capfd.readouterr())
    assert found.keys() == expected.keys()
    torch.testing.assert_close(found, expected, atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize(
    "options",
    [
        ["--trainer.accumulate_grad_batches", "2"],
        ["--trainer.callbacks+", "lightning.pytorch.callbacks.EMAWeightAveraging", "--trainer.callbacks.decay", "0.8"],
        ["--model.freeze", "[blocks.0]", "--model.unfreeze_at_epoch", "1"],
    ],
    ids=["accumulation", "EMA", "unfreezing"],
)
def test_cuda_graph_with(options: list[str]) -> None:
    fit("--model.cuda_graph", "true", *options)
    assert accuracy() > 0.8


def test_a_network_that_cannot_be_recorded_is_used_as_it_is(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("my_net.py").write_text(
        "from litcnn.networks import CNN\n"
        "class Net(CNN):\n"
        "    def forward(self, images):\n"
        "        assert float(images.sum()) == float(images.sum())  # waits for the device\n"
        "        return super().forward(images)\n"
    )
    monkeypatch.syspath_prepend(Path.cwd())
    fit("--model.network", "my_net.Net", "--model.network.widths", "[8, 8]", "--model.cuda_graph", "true", epochs=1)
    assert "the network cannot be recorded" in "".join(capfd.readouterr())


def test_predictions_equal_those_of_the_test_and_of_the_exported_graph() -> None:
    fit("--model.tta", "flip")
    main(["test", "--ckpt_path", "best.ckpt", "--trainer.default_root_dir", "tested"])
    predictions = rows(Path("tested"), PREDICTIONS)
    arrays = Digits().load("test")
    assert len(predictions) == len(arrays.labels)
    found = litcnn.load("best.ckpt").probabilities(arrays.images).numpy()  # (N, classes)
    tested = np.array([float(row["confidence"]) for row in predictions])
    np.testing.assert_allclose(found.max(1), tested, atol=TOLERANCE)

    main(["export", "--ckpt_path", "best.ckpt", "--output", "digits.onnx"])
    session = onnxruntime.InferenceSession("digits.onnx", providers=["CPUExecutionProvider"])
    exported = session.run(None, {"images": arrays.images[:16].numpy()})[0]
    np.testing.assert_allclose(exported, found[:16], atol=TOLERANCE)


def test_out_of_memory_is_one_message(capfd: pytest.CaptureFixture[str]) -> None:
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(300 * 2**20 / torch.cuda.mem_get_info()[1])
    try:
        with pytest.raises(SystemExit) as stopped:
            fit("--model.network", "litcnn.networks.ResNet", "--data.batch_size", "1600")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert stopped.value.code == 2
    said = "".join(capfd.readouterr())
    assert "--data.batch_size" in said and "Traceback" not in said
