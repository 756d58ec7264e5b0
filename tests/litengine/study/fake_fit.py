"""Stands for the project's program in the tests of studies: same options, same files, but it trains nothing.

The accuracy after epoch e is a function of the fold, the seed and the settings `model.x` and `model.kind`; an epoch
takes `model.pause` seconds. `model.fail` ends the fit with a message, `model.crash` with a traceback.
"""

import json
import signal
import sys
import time
from pathlib import Path
from typing import Any

import yaml

from litengine.training import run_directory as run


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
    known = {
        "seed_everything": 0, "trainer.max_epochs": 4, "trainer.accelerator": "auto", "data.folds": None,
        "data.fold": 0, "data.source.class_path": "litengine.data.Digits", "model.x": 0.5, "model.kind": "a",
        "model.widths": [8], "model.pause": 0.0, "model.fail": False, "model.crash": False,
        "checkpoints.monitor": "val/acc", "checkpoints.mode": "max",
        "checkpoints.link_best": True, "trust": [], "test_after_fit": False,
        "name": None, "runs": "runs", "resume": None, "config": None,
    }  # fmt: skip
    settings: dict[str, Any] = {}
    for key, value in {**known, **given}.items():
        if key not in known and key != "print_config":
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
    directory = run.find("auto", given["runs"], given["name"]) or run.new_run_dir(given["runs"], given["name"])
    metrics = directory / "metrics.csv"
    if not metrics.is_file():
        (directory / "config.yaml").write_text(yaml.safe_dump(settings))
        metrics.write_text("epoch,step,train/loss,val/loss,val/acc\n")
    run.write_state(directory, "running")
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


if __name__ == "__main__":
    options = parsed(sys.argv[2:])
    if sys.argv[1] == "test":
        test(Path(options["ckpt_path"]).parents[1])
    elif "print_config" in options:
        print(yaml.safe_dump(resolved(options)))
    else:
        fit(options, resolved(options))
