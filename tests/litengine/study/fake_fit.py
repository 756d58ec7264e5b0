"""Stands for the project's program in the tests of studies: same options, same files, but it trains nothing.

The accuracy after epoch e is a function of the fold, the seed and the settings `model.x` and `model.kind`; an epoch
takes `model.pause` seconds, and waits before it for the file `model.until`. `model.fail` ends the fit with a message,
`model.crash` with a traceback. As `fake_fit.py study …` it is the verb study whose runs it trains.
"""

import json
import signal
import sys
import time
from pathlib import Path
from typing import Any

import yaml

from litengine.training import run_directory as run

KNOWN = {
    "seed_everything": 0, "trainer.max_epochs": 4, "trainer.accelerator": "auto", "data.folds": None,
    "data.fold": 0, "data.source.class_path": "litengine.data.Digits", "model.x": 0.5, "model.kind": "a",
    "model.widths": [8], "model.pause": 0.0, "model.until": ".", "model.fail": False, "model.crash": False,
    "checkpoints.monitor": "val/acc", "checkpoints.mode": None, "checkpoints.link_best": True, "trust": [],
    "test_after_fit": False, "name": None, "runs": "runs", "resume": None, "config": None,
}  # fmt: skip


def parsed(args: list[str]) -> dict[str, str]:
    given, key = {}, ""
    for arg in args:
        if arg.startswith("--"):
            key, equals, value = arg.removeprefix("--").partition("=")
            given[key] = value if equals else "true"
        else:
            given[key] = arg
    return given


def resolved(given: dict[str, str]) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    for key, value in {**KNOWN, **given}.items():
        if key not in KNOWN and key != "print_config":
            sys.exit(print(f"error: unknown option --{key}", file=sys.stderr) or 2)
        *parts, last = key.split(".")
        place = settings
        for part in parts:
            place = place.setdefault(part, {})
        place[last] = yaml.safe_load(value) if isinstance(value, str) else value
    return settings


def accuracy(settings: dict[str, Any], epoch: int) -> float:
    best = 0.9 - (settings["model"]["x"] - 0.3) ** 2 + 0.01 * (settings["model"]["kind"] == "b")
    return best - 0.1 / (epoch + 1) + 0.001 * settings["data"]["fold"] + 0.0001 * settings["seed_everything"]


def fit(given: dict[str, str], settings: dict[str, Any]) -> None:
    directory = run.find("auto", given["runs"], given["name"])
    if directory is None:
        directory = Path(given["runs"], given["name"], f"{time.time():.6f}")
        directory.mkdir(parents=True)
        (directory / "config.yaml").write_text(yaml.safe_dump(settings))
        (directory / "metrics.csv").write_text("epoch,step,train/loss,val/loss,val/acc\n")
        run.own(directory)
    metrics = directory / "metrics.csv"
    run.write_state(directory, "running", mode="min" if "loss" in settings["checkpoints"]["monitor"] else "max")
    stopped: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: stopped.append(number))
    if settings["model"]["fail"]:
        print("error: model.fail is true", file=sys.stderr)
        sys.exit(2)
    if settings["model"]["crash"]:
        raise RuntimeError("crashed")
    (directory / "checkpoints").mkdir(exist_ok=True)
    for epoch in range(len(metrics.read_text().splitlines()) - 1, settings["trainer"]["max_epochs"]):
        time.sleep(settings["model"]["pause"])
        while epoch == 2 and not stopped and not Path(settings["model"]["until"]).exists():
            time.sleep(0.02)
        if stopped:
            run.write_state(directory, "stopped")
            sys.exit(143)
        score = accuracy(settings, epoch)
        with metrics.open("a") as file:
            file.write(f"{epoch},{10 * epoch + 9},{1 - score:.7g},{1.1 - score:.7g},{score:.7g}\n")
        (directory / "checkpoints/best.ckpt").touch()
    with (directory / "trained").open("a") as file:
        file.write("once\n")
    run.write_state(directory, "finished")
    if settings["test_after_fit"]:
        test(directory)


def test(directory: Path) -> None:
    (directory / "report").mkdir()
    settings = yaml.safe_load((directory / "config.yaml").read_text())
    score = accuracy(settings, settings["trainer"]["max_epochs"] - 1) - 0.05
    (directory / "report" / "metrics.json").write_text(json.dumps({"test/acc": score}))


def study(args: list[str]) -> None:
    from sqlalchemy import Engine, event

    from litengine import project
    from litengine.study import run_verb, workers

    project.command = lambda: [sys.executable, __file__]
    workers.shares = lambda number: [{}] * number  # would import torch
    workers.INTERVAL = 0.02
    event.listen(Engine, "connect", lambda connection, _: connection.execute("PRAGMA synchronous=OFF"))
    run_verb(args)


if __name__ == "__main__":
    options = parsed(sys.argv[2:])
    if sys.argv[1] == "study":
        study(sys.argv[1:])
    elif sys.argv[1] == "test":
        test(Path(options["ckpt_path"]).parents[1])
    elif "print_config" in options:
        print(yaml.safe_dump(resolved(options)))
    else:
        fit(options, resolved(options))
