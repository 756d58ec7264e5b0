"""The search space: reads a Weights & Biases sweep file into Optuna's distributions."""

import itertools
import json
import math
from pathlib import Path
from textwrap import shorten
from typing import Any, NamedTuple

import yaml
from optuna import Trial
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
)

RANGES = ("uniform", "int_uniform", "q_uniform", "log_uniform_values")


class Space(NamedTuple):
    """`mode` is max or min; `method` is bayes, random or grid. `varied` and `fixed` have the dotted keys of fit; lists
    and objects to choose from are JSON text."""

    metric: str
    mode: str
    method: str
    varied: dict[str, BaseDistribution]
    fixed: dict[str, Any]

    def suggest(self, trial: Trial) -> dict[str, Any]:
        """The varied settings of a trial, chosen by the sampler of its study."""
        for key, kind in self.varied.items():
            if isinstance(kind, CategoricalDistribution):
                trial.suggest_categorical(key, kind.choices)
            elif isinstance(kind, IntDistribution):
                trial.suggest_int(key, kind.low, kind.high, step=kind.step)
            elif isinstance(kind, FloatDistribution):
                trial.suggest_float(key, kind.low, kind.high, step=kind.step, log=kind.log)
        return trial.params

    def options(self, params: dict[str, Any]) -> list[str]:
        """The options of fit for the varied settings of a trial and the fixed ones."""
        settings = {**self.fixed, **{key: params[key] for key in self.varied}}
        return [f"--{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in settings.items()]

    def grid(self) -> list[dict[str, Any]]:
        """Every combination of the varied keys; a ValueError unless each has a list of values."""
        choices = [kind.choices for kind in self.varied.values() if isinstance(kind, CategoricalDistribution)]
        if len(choices) < len(self.varied):
            raise ValueError("method grid needs `values: […]` for every parameter that varies")
        return [dict(zip(self.varied, values, strict=True)) for values in itertools.product(*choices)]

    def record(self) -> dict[str, Any]:
        """The space as plain JSON data."""
        varied = {key: json.loads(distribution_to_json(kind))["attributes"] for key, kind in self.varied.items()}
        return {**self._asdict(), "varied": varied}


def read_space(path: str) -> Space:
    """Reads a sweep file; raises a ValueError that names the file and the key if it cannot be searched."""
    try:
        content = yaml.safe_load(Path(path).read_text("utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"cannot read the space {path}: {error}") from error
    match content:
        case {
            "method": "bayes" | "random" | "grid" as method,
            "metric": {"name": str(metric), "goal": "maximize" | "minimize" as goal},
            "parameters": {**parameters},
        } if metric.startswith("val/"):
            space = Space(metric, goal[:3], method, {}, {})
        case _:
            raise ValueError(
                f"{path} is not a search space: it needs `method: bayes`, random or grid, a metric of validation and "
                "its goal as in `metric: {name: val/acc, goal: maximize}` (or minimize), and `parameters:` as in "
                f"configs/sweep.yaml, but it is {shorten(str(content), 200)}"
            )
    for key, given in zip(map(str, parameters), parameters.values(), strict=True):
        try:
            if isinstance(given, dict) and "value" in given and given.get("distribution", "constant") == "constant":
                space.fixed[key] = given["value"]
            else:
                space.varied[key] = _distribution(given)
        except ValueError as error:
            raise ValueError(f"{path}: parameters.{key}: {error}") from error
    if not space.varied:
        raise ValueError(f"{path}: no parameter varies: give one of them `values: […]`, or `min:` and `max:`")
    return space


def _distribution(given: Any) -> BaseDistribution:
    match given:
        case {"values": [_, *_] as values} if given.get("distribution", "categorical") == "categorical":
            # Optuna stores plain values only
            return CategoricalDistribution([json.dumps(v) if isinstance(v, list | dict) else v for v in values])
        case {"min": low, "max": high} if given.get("distribution", "uniform") in RANGES:
            step = given.get("q", 1)
        case _:
            ranges = ", ".join(RANGES)
            raise ValueError(f"it is {given}: write `values: […]`, or `min:` and `max:` (distributions: {ranges})")
    for value in (low, high, step):
        if type(value) not in (int, float) or not math.isfinite(value):
            raise ValueError(f"{value!r} is not a number (YAML reads 1e-4 as text: write 1.0e-4)")
    whole = all(isinstance(value, int) for value in (low, high, step))
    name = given.get("distribution", "int_uniform" if whole else "uniform")
    if name == "int_uniform" and not whole:
        raise ValueError(f"int_uniform needs whole numbers, not {low} to {high}")
    if name == "int_uniform" or (name == "q_uniform" and whole):
        return IntDistribution(low, high, step=step)
    return FloatDistribution(low, high, log=name == "log_uniform_values", step=step if name == "q_uniform" else None)
