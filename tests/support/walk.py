"""Runs the code of a page from its top, in one folder: writes its files, runs its commands.

The table below lists what a test cannot do, with the reason. Everything else is run: a new command or block fails until
it works, or has a line here.
"""

import os
import shlex
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lightning.pytorch import Callback
from pages import ROOT, Block, blocks, commands, pages
from PIL import Image
from project_for_tests import main

from litengine import cli
from litengine.data import Digits
from litengine.training.run_directory import runs_in

S3 = "needs an object store; tests/e2e/test_resume.py does the same with a folder"
# Commands that are not run, by their first words; the longest match counts.
NOT_RUN = {
    "python main.py prepare --config configs/images.yaml --data.source.init_args.root path/to/images --to s3:/": S3,
    "python main.py fit --config configs/images.yaml --data.source litengine.data.Stream": S3,
    "python -m pytest": "the suite runs it",
    "python benchmarks": "minutes to hours; tests/benchmarks runs the scripts on little",
    "python -m cProfile": "a profile of benchmarks/loop.py, which tests/benchmarks runs",
    "python main.py fit --config configs/digits.yaml --config configs/with/ddp.yaml": "tests/e2e/test_launchers.py",
    "python article.py": "downloads CIFAR-10; tests/docs/test_article.py runs it on digits",
    "python main.py demo": "serves until it is stopped: tests/e2e/test_demo.py",
    "python main.py export": "tests/litengine/export/test_export.py writes every format",
    "python main.py fit --config configs/cnn.yaml --config configs/with/ddp.yaml": "tests/e2e/test_launchers.py",
    "python main.py study --config configs/digits.yaml --folds": "two more processes: tests/e2e/test_study.py",
    "python main.py predict --ckpt_path runs/digits-5-folds": "tests/litengine/inference/test_predictor.py does it",
    "python main.py test --ckpt_path runs/digits-5-folds": "tests/litengine/cli/test_checkpoints.py does it",
    "python main.py test --ckpt_path best.ckpt --images": "tests/litengine/cli/test_checkpoints.py does it",
    "docker": "needs an engine; deploy/container.sh check does the same",
    "deploy/container.sh": "builds an image, for a quarter of an hour",
    "sbatch": "needs SLURM: tests/deploy/test_slurm.py",
    "torchrun": "several machines: tests/e2e/test_launchers.py",
    "python -m litengine my_package.Model": "a package of two classes: tests/e2e/test_second_project.py",
    "wandb": "needs W&B's server; tests/e2e/test_study.py runs what an agent would",
}

# What makes a verb small; flags that come last win.
LITTLE = ["--trainer.max_epochs", "1", "--trainer.limit_train_batches", "2", "--trainer.limit_val_batches", "1"]
SMALL = {
    "fit": [*LITTLE, "--data.batch_size", "8", "--model.compile", "false"],
    "test": ["--trainer.limit_test_batches", "1"],
    "tune": ["--data.batch_size", "8", "--steps", "12", "--highest", "1.0e-3"],
    "study": LITTLE,
}
FEWER = {"--seeds": "0..1", "--trials": "1"}
CIFAR10 = ("configs/cnn.yaml", "configs/fast.yaml", "configs/resnet.yaml")  # which would have to be downloaded


class Interrupted(Callback):
    """Asks the run to stop after two steps, as a cluster would."""

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == 2:
            os.kill(os.getpid(), signal.SIGTERM)


def make_home(home: Path) -> None:
    """The working directory of a reader: the configs of the repository, and pictures."""
    shutil.copytree(ROOT / "configs", home / "configs")
    arrays = Digits().load("train")
    table = ["path,label,split,group"]
    for index in (arrays.labels < 3).nonzero().flatten()[:60].tolist():
        name = ("cat", "dog", "hen")[int(arrays.labels[index])]
        picture = Image.fromarray(np.ascontiguousarray(arrays.images[index].permute(1, 2, 0).numpy()))
        for root in ("path/to/images", "data/images"):
            (home / root / name).mkdir(parents=True, exist_ok=True)
            picture.resize((70, 66)).save(home / root / name / f"{index}.png")
        table.append(f"images/{name}/{index}.png,{name},{'test' if index % 3 == 0 else 'train'},{index}")
    (home / "path/to/table.csv").write_text("\n".join(table))
    test = Digits().load("test")
    parts = {"train": arrays, "test": test}
    of_numpy = {f"{split}_images": part.images.permute(0, 2, 3, 1).numpy() for split, part in parts.items()}
    labels = {f"{split}_labels": part.labels.numpy() for split, part in parts.items()}
    np.savez(home / "path/to/digits.npz", **of_numpy, **labels, class_names=[str(digit) for digit in range(10)])
    (home / "folder").mkdir()
    for name in ("cat.jpg", "a.png", "b.png", "folder/c.png"):
        picture.save(home / name)


def write_files(home: Path) -> None:
    """The files with a title on any page: one names those of another."""
    for block in (block for page in pages() for block in blocks(page) if block.title):
        path = home / block.title
        assert not path.exists() or path.read_text() == block.text, f"{block}: {block.title} stands on another page too"
        path.write_text(block.text)


class Walk:
    """Runs the blocks of one page, one after the other, in the current folder.

    Args:
        patch: undone by the caller.
    """

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.patch = patch
        self.names: dict[str, Any] = {}  # of the page's Python

    def run(self, block: Block, but: Sequence[list[str]] = ()) -> None:
        """Runs a block, `but` not the commands that are run elsewhere."""
        if not is_run(block):
            return
        if block.language == "python":
            exec(compile(block.text, str(block), "exec"), self.names)
        elif block.language == "yaml":
            self.fit_with(block)
        else:
            for words in (words for words in commands(block) if words not in but):
                with named(f"{block.page}:{block.line} {shlex.join(words)}"):
                    self.run_command(words)

    def fit_with(self, block: Block) -> None:
        path = Path(block.title or f"block{block.line}.yaml")
        path.write_text(block.text)
        parsed_only = "download: true" in block.text  # a real download
        command = ["fit", "--config", str(path), *SMALL["fit"], *["--print_config"] * parsed_only]
        with named(str(block)):
            if parsed_only:
                with pytest.raises(SystemExit, match="^0$"):
                    main(command)
            else:
                main(command)

    def run_command(self, words: list[str]) -> None:
        while "=" in words[0]:
            name, _, value = words[0].partition("=")
            self.patch.setenv(name, value)
            words = words[1:]
        if skipped(words):
            return
        if "best.ckpt" in words and not Path("best.ckpt").exists():  # made by the README, or by no command of the page
            main(["fit", "--config", "configs/digits.yaml", *SMALL["fit"]])
        if words[0] == "make":  # whether there is such a target; the suite itself was started by make
            subprocess.run([*words, "--dry-run"], cwd=ROOT, check=True, capture_output=True, text=True)
        elif words[0] == "cp":
            shutil.copy(*words[1:])
        elif words[:2] == ["python", "main.py"]:
            self.run_verb(main, words[2:])
        elif words[:3] == ["python", "-m", "litengine"]:
            self.run_verb(partial(cli.main, *words[3:5]), words[5:])
        else:
            raise AssertionError("neither a command of the program nor in tests/support/walk.py")

    def run_verb(self, main: Callable[[list[str]], None], words: list[str]) -> None:
        verb, *rest = words
        for option, value in FEWER.items() if verb == "study" else ():
            if option in rest:
                rest[rest.index(option) + 1] = value
        rest += SMALL.get(verb, [])
        if any(config in rest for config in CIFAR10) and "--data.source" not in rest:
            rest += ["--data.source", "litengine.data.Digits"]
        if "--resume" in rest and (wanted := rest[rest.index("--resume") + 1]) != "auto":
            interrupt(wanted)
            rest = ["--resume", wanted]
        main([verb, *rest])


def is_run(block: Block) -> bool:
    """Whether a block is code that the test of its page runs: tests/litengine/export runs that of docs/deploy.md."""
    exported = (block.page, block.language) == ("docs/deploy.md", "python")
    list_of_folders = "hands the project's two classes" in block.text
    return not exported and not list_of_folders and block.language != "text"


def skipped(words: list[str]) -> str:
    """The first words, as the table has them, that say that a command is not run; empty where it is."""
    fitting = [
        key for key in NOT_RUN if words[: len(key.split())] == key.split() or " ".join(words).startswith(f"{key}/")
    ]
    return max(fitting, key=len, default="")


def interrupt(wanted: str) -> None:
    """Leaves an unfinished run of digits.yaml: the newest, or under the name that is wanted."""
    few = ["--trainer.limit_train_batches", "4", "--trainer.max_epochs", "1", "--trainer.limit_val_batches", "1"]
    with pytest.raises(SystemExit, match="143"):
        main(["fit", "--config", "configs/digits.yaml", *few, "--trainer.callbacks+", "walk.Interrupted"])
    if wanted != "last":
        newest = runs_in("runs")[-1]
        newest.rename(wanted)
        config = Path(wanted, "config.yaml")
        config.write_text(config.read_text().replace(newest.name, Path(wanted).name))


@contextmanager
def named(what: str) -> Iterator[None]:
    """Names the command or block of the page that failed."""
    try:
        yield
    except (Exception, SystemExit) as error:
        raise AssertionError(f"{what}: {type(error).__name__}: {error}") from error
