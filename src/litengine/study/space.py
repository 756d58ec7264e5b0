"""The settings that a search tries: a Weights & Biases sweep file, read for Optuna."""

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import yaml

if TYPE_CHECKING:
    from optuna import Trial

KNOWN = ("uniform", "int_uniform", "q_uniform", "log_uniform_values", "categorical", "constant")
METHODS = ("bayes", "random")
RANGES = ("min", "max", "q")


class Range(NamedTuple):
    """Numbers from `low` to `high`, both included: whole ones or not, in steps or not, evenly or by their logarithm."""

    low: float
    high: float
    whole: bool = False
    log: bool = False
    step: float | None = None

    def suggest(self, trial: "Trial", key: str) -> int | float:
        if self.whole:
            return trial.suggest_int(key, int(self.low), int(self.high), step=int(self.step or 1), log=self.log)
        return trial.suggest_float(key, self.low, self.high, step=self.step, log=self.log)

    @property
    def example(self) -> int | float:
        return int(self.low) if self.whole else self.low


class Choice(NamedTuple):
    """One of several values of any kind."""

    values: list[Any]

    def suggest(self, trial: "Trial", key: str) -> Any:
        # storages keep numbers, words, booleans and null: others as JSON
        plain = [json.dumps(value) if isinstance(value, list | dict) else value for value in self.values]
        return self.values[plain.index(trial.suggest_categorical(key, plain))]

    @property
    def example(self) -> Any:
        return self.values[0]


class Space(NamedTuple):
    """What is searched, and for what.

    `varied` and `fixed` are by dotted key of fit; `metric` is one of validation; `method` is `bayes` or `random`.
    """

    metric: str
    mode: Literal["max", "min"]
    method: str
    varied: dict[str, Range | Choice]
    fixed: dict[str, Any]

    @property
    def example(self) -> dict[str, Any]:
        """A value for every key."""
        return {**self.fixed, **{key: kind.example for key, kind in self.varied.items()}}

    def suggest(self, trial: "Trial") -> dict[str, Any]:
        """The values of a trial."""
        return {**self.fixed, **{key: kind.suggest(trial, key) for key, kind in self.varied.items()}}

    def plain(self) -> dict[str, Any]:
        """As JSON would give it back."""
        varied = {key: kind._asdict() for key, kind in self.varied.items()}
        plain: dict[str, Any] = json.loads(json.dumps({**self._asdict(), "varied": varied}))
        return plain


def as_flag(key: str, value: Any) -> str:
    """A setting as fit takes it on the command line."""
    return f"--{key}={value if isinstance(value, str) else json.dumps(value)}"


def read_space(path: str) -> Space:
    """Reads a sweep file.

    Raises:
        ValueError: where it is missing, is none, or holds what cannot be searched, naming the key.
    """
    content = _read(path)
    method = content.get("method")
    if method not in METHODS:
        raise ValueError(f"{path}: method is {method}: {' or '.join(METHODS)} is needed")
    name, mode = _metric(content.get("metric"), path)
    parameters = content.get("parameters")
    if not isinstance(parameters, dict) or not parameters:
        raise ValueError(f"{path}: the space is empty: write what to vary under `parameters:`, each with min and max")
    varied: dict[str, Range | Choice] = {}
    fixed: dict[str, Any] = {}
    for key, given in parameters.items():
        where = f"{path}: parameters.{key}"
        if not isinstance(given, dict):
            raise ValueError(f"{where} is {given}: write `values: […]`, or `min:` and `max:`")
        if "parameters" in given:
            raise ValueError(f"{where} has parameters below it: write each by its dotted key")
        if given.get("distribution", "constant") == "constant" and "value" in given:
            fixed[key] = given["value"]
        else:
            varied[key] = _parameter(given, where)
    if not varied:
        raise ValueError(f"{path}: the space is empty: every parameter has one value only")
    return Space(name, mode, method, varied, fixed)


def _read(path: str) -> dict[str, Any]:
    try:
        content = yaml.safe_load(Path(path).read_text("utf-8"))
    except OSError as error:
        raise ValueError(f"cannot read the space {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is no sweep file: it needs method, metric and parameters, as configs/sweep.yaml")
    return content


def _metric(given: Any, path: str) -> tuple[str, Literal["max", "min"]]:
    name, goal = (given.get("name"), given.get("goal")) if isinstance(given, dict) else (None, None)
    if not isinstance(name, str) or goal not in ("maximize", "minimize"):
        raise ValueError(f"{path}: metric is {given}: write `metric: {{name: val/acc, goal: maximize}}`")
    if not name.startswith("val/"):
        raise ValueError(f"{path}: metric.name is {name}: settings are chosen on validation images, as by val/acc")
    return name, "max" if goal == "maximize" else "min"


def _parameter(given: dict[str, Any], where: str) -> Range | Choice:
    if "values" in given:
        values = given["values"]
        if given.get("distribution", "categorical") != "categorical":
            raise ValueError(f"{where} has values, but its distribution is {given['distribution']}: leave that out")
        if not isinstance(values, list) or not values:
            raise ValueError(f"{where}.values is {values}: a list of one or more is needed")
        return Choice(values)
    if "min" not in given or "max" not in given:
        there = next((name for name in ("min", "max") if name in given), None)
        what = f"has {there} without {'max' if there == 'min' else 'min'}" if there else "says nothing to try"
        raise ValueError(f"{where} {what}: write `values: […]`, or `min:` and `max:`")
    for name in RANGES:
        _check_number(given.get(name, 0), f"{where}.{name}")
    low, high = given["min"], given["max"]
    whole = all(isinstance(given.get(name, 0), int) for name in RANGES)
    distribution = given.get("distribution", "int_uniform" if whole else "uniform")
    if distribution not in KNOWN[:4]:
        raise ValueError(f"{where}.distribution is {distribution}: known are {', '.join(KNOWN)}")
    if low > high:
        raise ValueError(f"{where} is upside down: min {low} is above max {high}")
    if distribution == "int_uniform" and not whole:
        raise ValueError(f"{where} is int_uniform from {low} to {high}: whole numbers are needed")
    if distribution == "log_uniform_values":
        if low <= 0:
            raise ValueError(f"{where}.min is {low}: log_uniform_values needs numbers above 0")
        return Range(low, high, log=True)
    if distribution == "q_uniform":
        step = given.get("q", 1)
        if step <= 0 or not math.isclose((high - low) / step, round((high - low) / step), abs_tol=1e-9):
            raise ValueError(f"{where}: steps of q {step} do not lead from min {low} to max {high}")
        return Range(low, high, whole=whole, step=step)
    return Range(low, high, whole=distribution == "int_uniform")


def _check_number(value: Any, where: str) -> None:
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return
    hint = ""
    try:
        number = float(value)
        if isinstance(value, str) and math.isfinite(number):  # YAML wants a point in 1e-4
            mantissa, letter, exponent = value.lower().partition("e")
            hint = f" (YAML takes {value} for text: write {float(mantissa)}{letter}{exponent})"
    except (TypeError, ValueError):
        pass
    raise ValueError(f"{where} is {value!r}: a number is needed{hint}")
