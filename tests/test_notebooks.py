"""Each notebook runs from a clean kernel, and its saved outputs are those of such a run.

`python tests/test_notebooks.py` runs them and saves their outputs in them.
"""

import base64
import io
import re
import shutil
import tempfile
from pathlib import Path

import nbformat
import pytest
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpecManager
from nbclient import NotebookClient
from nbformat import NotebookNode
from PIL import Image

ROOT = Path(__file__).parents[1]
TRAIN, USE = (ROOT / "notebooks" / f"{name}.ipynb" for name in ("01_train_and_look", "02_use_a_checkpoint"))
PICTURES = {TRAIN: 4, USE: 2}
# differs between runs, machines or versions
NOISE = re.compile(
    r"\x1b|warn|deprecat|images/s|it/s|\d ?seconds|\d\d:\d\d|\d{4}-\d\d-\d\d|GPU|CPU|0x[0-9a-f]{6}", re.I
)


def execute(path: Path, home: Path) -> NotebookNode:
    """The notebook after its run in `home`, an empty folder that stands for the repository; raises where a cell or a
    command in it fails."""
    shutil.copytree(ROOT / "configs", home / "configs")
    (home / "notebooks").mkdir()
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        # without the kernels installed on this machine, one of which may be another Python under the same name
        km=AsyncKernelManager(kernel_spec_manager=KernelSpecManager(kernel_dirs=[])),
        timeout=500,
        record_timing=False,
        coalesce_streams=True,  # in how many pieces the prints of a cell arrive is chance
        resources={"metadata": {"path": str(home / "notebooks")}},
        extra_arguments=["--InteractiveShell.system_raise_on_error=True"],
    )
    client.execute(cleanup_kc=True)  # or the kernel would live on
    return notebook


def outputs(notebook: NotebookNode) -> list[NotebookNode]:
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


def printed(notebook: NotebookNode) -> str:
    return "".join(output.text for output in outputs(notebook) if output.output_type == "stream")


def pictures(notebook: NotebookNode) -> list[Image.Image]:
    found = [output.data["image/png"] for output in outputs(notebook) if "image/png" in output.get("data", {})]
    return [Image.open(io.BytesIO(base64.b64decode(text))) for text in found]


def check(path: Path, notebook: NotebookNode) -> None:
    """What holds for the saved outputs and for those of any other run."""
    assert not [each for each in outputs(notebook) if each.output_type == "error" or each.get("name") == "stderr"]
    text = printed(notebook)
    assert not NOISE.search(text), NOISE.search(text)
    (accuracy,) = re.findall(r"test accuracy: ([\d.]+)% of 360 images", text)
    assert 93 < float(accuracy) <= 100  # 97.5 to 99.5 were seen
    assert [picture.width <= 850 for picture in pictures(notebook)] == [True] * PICTURES[path]
    if path == USE:  # twice the same classes: of the checkpoint and of the exported file
        assert re.findall(r"onnxruntime: +(.*)", text) == re.findall(r"predict: +(.*)", text) != []
        (difference,) = re.findall(r"largest difference of a probability: (\S+)", text)
        assert float(difference) < 1e-5


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("path", PICTURES, ids=lambda path: path.stem)
def test_it_runs_from_a_clean_kernel_and_leaves_nothing(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    home = tmp_path / "repository"
    home.mkdir()
    notebook = execute(path, home)
    check(path, notebook)
    saved = nbformat.read(path, as_version=4)
    check(path, saved)
    kinds = [[(output.output_type, *output.get("data", {})) for output in outputs(n)] for n in (notebook, saved)]
    assert kinds[0] == kinds[1], "the saved outputs are of other code: python tests/test_notebooks.py"
    assert list((home / "notebooks").iterdir()) == []
    assert sorted(folder.name for folder in home.iterdir()) == ["configs", "notebooks"]


if __name__ == "__main__":
    for path in PICTURES:
        saved = nbformat.read(path, as_version=4)
        with tempfile.TemporaryDirectory() as home:
            executed = execute(path, Path(home))
        executed.metadata = saved.metadata  # without the version of this Python
        nbformat.write(executed, path)
