"""The search space: reads a Weights & Biases sweep file into Optuna's distributions."""

import itertools
import json
import math
from pathlib import Path
from typing import Any, Literal, NamedTuple

import yaml
from optuna import Trial
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
)

METHODS = ("bayes", "random", "grid")
RANGES = ("uniform", "int_uniform", "q_uniform", "log_uniform_values")


class Space(NamedTuple):
    """`varied` and `fixed` have the dotted keys of fit; lists and objects to choose from are JSON text."""

    metric: str
    mode: Literal["max", "min"]
    method: str
    varied: dict[str, BaseDistribution]
    fixed: dict[str, Any]

    def suggest(self, trial: Trial) -> dict[str, Any]:
        """The settings of a trial, chosen by the sampler of its study."""
        for key, kind in self.varied.items():
            if isinstance(kind, CategoricalDistribution):
                trial.suggest_categorical(key, kind.choices)
            elif isinstance(kind, IntDistribution):
                trial.suggest_int(key, kind.low, kind.high, step=kind.step)
            elif isinstance(kind, FloatDistribution):
                trial.suggest_float(key, kind.low, kind.high, step=kind.step, log=kind.log)
        return {**self.fixed, **{key: trial.params[key] for key in self.varied}}

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


def as_flag(key: str, value: Any) -> str:
    """A setting as an option of fit."""
    return f"--{key}={value if isinstance(value, str) else json.dumps(value)}"


def read_space(path: str) -> Space:
    """Reads a sweep file; raises a ValueError that names the file and the key if it cannot be searched."""
    try:
        content = yaml.safe_load(Path(path).read_text("utf-8"))
    except OSError as error:
        raise ValueError(f"cannot read the space {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(content, dict) or not isinstance(content.get("parameters"), dict):
        raise ValueError(f"{path} is no sweep file: it needs method, metric and parameters, as configs/sweep.yaml")
    method, metric = content.get("method"), content.get("metric")
    if method not in METHODS:
        raise ValueError(f"{path}: method is {method}: give one of {', '.join(METHODS)}")
    match metric:
        case {"name": str(name), "goal": "maximize" | "minimize" as goal} if name.startswith("val/"):
            mode: Literal["max", "min"] = "max" if goal == "maximize" else "min"
        case _:
            example = "metric: {name: val/acc, goal: maximize}"
            raise ValueError(f"{path}: metric is {metric}: give a validation metric and a goal, as `{example}`")
    varied: dict[str, BaseDistribution] = {}
    fixed: dict[str, Any] = {}
    for key, given in content["parameters"].items():
        try:
            if isinstance(given, dict) and "value" in given and given.get("distribution", "constant") == "constant":
                fixed[key] = given["value"]
            else:
                varied[key] = _distribution(given)
        except ValueError as error:
            raise ValueError(f"{path}: parameters.{key}: {error}") from error
    if not varied:
        raise ValueError(f"{path}: no parameter varies: give one of them `values: […]`, or `min:` and `max:`")
    return Space(name, mode, method, varied, fixed)


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
        _check_number(value)
    whole = all(isinstance(value, int) for value in (low, high, step))
    name = given.get("distribution", "int_uniform" if whole else "uniform")
    if name == "int_uniform" and not whole:
        raise ValueError(f"int_uniform needs whole numbers, not {low} to {high}")
    if name == "int_uniform" or (name == "q_uniform" and whole):
        return IntDistribution(low, high, step=step)
    return FloatDistribution(low, high, log=name == "log_uniform_values", step=step if name == "q_uniform" else None)


def _check_number(value: Any) -> None:
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return
    hint = " (YAML reads 1e-4 as text: write 1.0e-4)" if isinstance(value, str) else ""
    raise ValueError(f"{value!r} is not a number{hint}")
