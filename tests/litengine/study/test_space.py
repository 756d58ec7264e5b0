import json
from pathlib import Path

import optuna
import pytest
import yaml
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from litengine.study.space import as_flag, read_space

SWEEP = Path(__file__).parents[3] / "configs" / "sweep.yaml"


def written(parameters, **others):
    content = {"method": "bayes", "metric": {"name": "val/acc", "goal": "maximize"}, "parameters": parameters, **others}
    Path("space.yaml").write_text(yaml.safe_dump({key: value for key, value in content.items() if value is not None}))
    return "space.yaml"


DISTRIBUTIONS = [
    ({"min": 0.1, "max": 0.5}, FloatDistribution(0.1, 0.5)),
    ({"min": 0, "max": 0.5}, FloatDistribution(0, 0.5)),
    ({"distribution": "uniform", "min": 0, "max": 1}, FloatDistribution(0, 1)),
    ({"min": 2, "max": 9}, IntDistribution(2, 9)),
    ({"distribution": "int_uniform", "min": 2, "max": 9}, IntDistribution(2, 9)),
    ({"distribution": "log_uniform_values", "min": 1e-4, "max": 1e-1}, FloatDistribution(1e-4, 1e-1, log=True)),
    ({"distribution": "q_uniform", "min": 0.0, "max": 0.5, "q": 0.1}, FloatDistribution(0, 0.5, step=0.1)),
    ({"distribution": "q_uniform", "min": 64, "max": 256, "q": 32}, IntDistribution(64, 256, step=32)),
    ({"values": ["a", "b"]}, CategoricalDistribution(["a", "b"])),
    ({"distribution": "categorical", "values": [1, 2.5, None]}, CategoricalDistribution([1, 2.5, None])),
    ({"values": [[8], [8, 16]]}, CategoricalDistribution(["[8]", "[8, 16]"])),
]


@pytest.mark.parametrize(("parameter", "distribution"), DISTRIBUTIONS)
def test_a_parameter_is_sampled_from_its_distribution(parameter, distribution):
    space = read_space(written({"model.x": parameter}))
    trial = optuna.create_study().ask()
    value = space.suggest(trial)["model.x"]
    assert trial.distributions == {"model.x": distribution}
    allowed = parameter.get("values")
    assert value in allowed if allowed else parameter["min"] <= value <= parameter["max"]
    assert type(value) is type(space.suggest(trial)["model.x"])  # a trial is asked again after a restart
    assert space.suggest(trial)["model.x"] == value


def test_a_space_is_read_with_its_metric_and_fixed_values():
    path = written(
        {"a": {"value": [1, 2]}, "b": {"min": 1, "max": 2}, "c": {"distribution": "constant", "value": "x"}},
        metric={"name": "val/loss", "goal": "minimize"},
        method="random",
    )
    space = read_space(path)
    assert (space.metric, space.mode, space.method) == ("val/loss", "min", "random")
    assert space.fixed == {"a": [1, 2], "c": "x"}
    assert space.example == {"a": [1, 2], "c": "x", "b": 1}
    assert json.loads(json.dumps(space.plain())) == space.plain()


@pytest.mark.parametrize(
    ("value", "flag"),
    [
        (0.00031, "--k=0.00031"),
        (1e-07, "--k=1e-07"),
        (32, "--k=32"),
        ("torch.optim.SGD", "--k=torch.optim.SGD"),
        (True, "--k=true"),
        (None, "--k=null"),
        ([8, 16], "--k=[8, 16]"),
        ({"class_path": "a.B"}, '--k={"class_path": "a.B"}'),
    ],
)
def test_a_value_becomes_one_word_of_the_command_line(value, flag):
    assert as_flag("k", value) == flag
    assert yaml.safe_load(flag.partition("=")[2]) == (value if value != 1e-07 else "1e-07")  # jsonargparse knows 1e-07


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({}, "the space is empty: write what to vary"),
        (None, "the space is empty: write what to vary"),
        ({"a": {"value": 1}}, "the space is empty: every parameter has one value only"),
        ({"a": {"min": 0.1, "max": 0.01}}, "parameters.a is upside down: min 0.1 is above max 0.01"),
        ({"a": {"min": 0.1}}, r"parameters.a has min without max: write `values: \[…\]`, or `min:` and `max:`"),
        ({"a": {"max": 0.1}}, "parameters.a has max without min"),
        ({"a": {"distribution": "uniform"}}, "parameters.a says nothing to try"),
        ({"a": {}}, "parameters.a says nothing to try"),
        ({"a": 3}, "parameters.a is 3: write"),
        ({"a": {"values": []}}, r"parameters.a.values is \[\]: a list of one or more"),
        ({"a": {"values": 3}}, "parameters.a.values is 3"),
        ({"a": {"values": [1], "distribution": "uniform"}}, "has values, but its distribution is uniform"),
        (
            {"a": {"min": 0, "max": 1, "distribution": "normal"}},
            "distribution is normal: known are uniform, int_uniform",
        ),
        ({"a": {"min": 0, "max": 1, "distribution": "log_uniform_values"}}, "a.min is 0: log_uniform_values needs"),
        ({"a": {"min": 0.5, "max": 2, "distribution": "int_uniform"}}, "whole numbers are needed"),
        (
            {"a": {"min": 0, "max": 1, "q": 0.3, "distribution": "q_uniform"}},
            "steps of q 0.3 do not lead from min 0 to",
        ),
        ({"a": {"min": 0, "max": 1, "q": 0, "distribution": "q_uniform"}}, "steps of q 0"),
        ({"a": {"min": "low", "max": 1}}, "a.min is 'low': a number is needed$"),
        ({"a": {"min": True, "max": 2}}, "a.min is True: a number is needed"),
        ({"a": {"min": float("nan"), "max": 2}}, "a.min is nan: a number is needed"),
        ({"a": {"parameters": {"b": {"value": 1}}}}, "has parameters below it: write each by its dotted key"),
    ],
)
def test_what_cannot_be_searched_is_refused(parameters, words):
    with pytest.raises(ValueError, match=f"^space.yaml: .*{words}"):
        read_space(written(parameters))


def test_a_number_that_yaml_takes_for_text_is_explained():
    Path("space.yaml").write_text(
        "method: bayes\nmetric: {name: val/acc, goal: maximize}\nparameters: {lr: {min: 1e-4, max: 1e-2}}\n"
    )
    with pytest.raises(
        ValueError, match=r"lr.min is '1e-4': a number is needed \(YAML takes 1e-4 for text: write 1.0e-4"
    ):
        read_space("space.yaml")


@pytest.mark.parametrize(
    ("others", "words"),
    [
        ({"method": "grid"}, "method is grid: bayes or random"),
        ({"method": None}, "method is None"),
        ({"metric": None}, "metric is None: write `metric: {name: val/acc, goal: maximize}`"),
        ({"metric": {"name": "val/acc"}}, "metric is"),
        ({"metric": {"name": "val/acc", "goal": "up"}}, "metric is"),
        ({"metric": {"name": "test/acc", "goal": "maximize"}}, "chosen on validation images, as by val/acc"),
    ],
)
def test_what_is_searched_for_must_be_said(others, words):
    with pytest.raises(ValueError, match=words):
        read_space(written({"a": {"min": 0, "max": 1}}, **others))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "cannot read the space space.yaml: No such file"),
        ("a: [", "space.yaml is not valid YAML"),
        ("", "space.yaml is no sweep file"),
        ("[1]", "space.yaml is no sweep file"),
    ],
)
def test_a_file_that_is_no_space_is_named(text, words):
    if text is not None:
        Path("space.yaml").write_text(text)
    with pytest.raises(ValueError, match=words):
        read_space("space.yaml")


def test_the_shipped_space_is_read():
    space = read_space(str(SWEEP))
    assert space.metric == "val/acc" and len(space.varied) == 5
    assert space.varied["model.network.init_args.hidden"].whole
