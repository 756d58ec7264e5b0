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


@pytest.mark.parametrize(
    ("parameter", "distribution"),
    [
        ({"min": 0.1, "max": 0.5}, FloatDistribution(0.1, 0.5)),
        ({"min": 0, "max": 0.5}, FloatDistribution(0, 0.5)),
        ({"distribution": "uniform", "min": 0, "max": 1}, FloatDistribution(0, 1)),
        ({"min": 2, "max": 9}, IntDistribution(2, 9)),
        ({"distribution": "int_uniform", "min": 2, "max": 9}, IntDistribution(2, 9)),
        ({"distribution": "log_uniform_values", "min": 1e-4, "max": 1e-1}, FloatDistribution(1e-4, 1e-1, log=True)),
        ({"distribution": "log_uniform_values", "min": 1, "max": 8}, FloatDistribution(1, 8, log=True)),
        ({"distribution": "q_uniform", "min": 0.0, "max": 0.5, "q": 0.1}, FloatDistribution(0, 0.5, step=0.1)),
        ({"distribution": "q_uniform", "min": 64, "max": 256, "q": 32}, IntDistribution(64, 256, step=32)),
        ({"values": ["a", "b"]}, CategoricalDistribution(["a", "b"])),
        ({"distribution": "categorical", "values": [1, 2.5, None]}, CategoricalDistribution([1, 2.5, None])),
        ({"values": [[8], [8, 16]]}, CategoricalDistribution(["[8]", "[8, 16]"])),
    ],
)
def test_a_parameter_is_sampled_from_its_distribution(parameter, distribution):
    space = read_space(written({"model.x": parameter}))
    trial = optuna.create_study().ask()
    value = space.suggest(trial)["model.x"]
    assert trial.distributions == {"model.x": distribution}
    assert distribution._contains(distribution.to_internal_repr(value))
    assert space.suggest(trial)["model.x"] == value  # a trial is asked again after a restart


def test_a_space_has_a_metric_and_fixed_values():
    fixed = {"a": {"value": [1, 2]}, "c": {"distribution": "constant", "value": "x"}}
    path = written(
        {**fixed, "b": {"min": 1, "max": 2}}, metric={"name": "val/loss", "goal": "minimize"}, method="random"
    )
    space = read_space(path)
    assert (space.metric, space.mode, space.method) == ("val/loss", "min", "random")
    assert space.fixed == {"a": [1, 2], "c": "x"}
    assert space.record()["varied"] == {"b": {"log": False, "step": 1, "low": 1, "high": 2}}


def test_a_grid_has_all_combinations_of_lists():
    space = read_space(written({"a": {"values": ["x", [1]]}, "b": {"values": [2, 3]}}, method="grid"))
    assert [tuple(chosen.values()) for chosen in space.grid()] == [("x", 2), ("x", 3), ("[1]", 2), ("[1]", 3)]
    with pytest.raises(ValueError, match=r"method grid needs `values: \[…\]` for every parameter"):
        read_space(written({"d": {"min": 0.0, "max": 1.0}}, method="grid")).grid()


@pytest.mark.parametrize(
    ("value", "flag"),
    [
        (0.00031, "--k=0.00031"),
        (32, "--k=32"),
        ("torch.optim.SGD", "--k=torch.optim.SGD"),
        (True, "--k=true"),
        (None, "--k=null"),
        ([8, 16], "--k=[8, 16]"),
        ({"class_path": "a.B"}, '--k={"class_path": "a.B"}'),
    ],
)
def test_a_value_becomes_one_option(value, flag):
    assert as_flag("k", value) == flag and yaml.safe_load(flag.partition("=")[2]) == value


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({}, "no parameter varies"),
        ({"a": {"value": 1}}, "no parameter varies: give one of them `values"),
        (None, "is no sweep file: it needs method, metric and parameters"),
        ({"a": {"min": 0.1, "max": 0.01}}, r"parameters.a: `low <= high` must hold, but got \(low=0.1, high=0.01"),
        ({"a": {"min": 0.1}}, r"parameters.a: it is {'min': 0.1}: write `values: \[…\]`, or `min:` and `max:`"),
        ({"a": {"distribution": "uniform"}}, "parameters.a: it is"),
        ({"a": 3}, "parameters.a: it is 3: write"),
        ({"a": {"values": []}}, "parameters.a: it is"),
        ({"a": {"values": [1], "distribution": "uniform"}}, "parameters.a: it is"),
        ({"a": {"min": 0, "max": 1, "distribution": "normal"}}, r"\(distributions: uniform, int_uniform"),
        ({"a": {"min": 0, "max": 1, "distribution": "log_uniform_values"}}, "a: `low > 0` must hold for `log=True`"),
        ({"a": {"min": 0.5, "max": 2, "distribution": "int_uniform"}}, "int_uniform needs whole numbers, not 0.5 to 2"),
        ({"a": {"min": 0, "max": 1, "q": 0, "distribution": "q_uniform"}}, "`step > 0` must hold"),
        ({"a": {"min": "1e-4", "max": 1}}, r"a: '1e-4' is not a number \(YAML reads 1e-4 as text: write 1.0e-4\)"),
        ({"a": {"min": True, "max": 2}}, "a: True is not a number$"),
        ({"a": {"min": float("nan"), "max": 2}}, "a: nan is not a number$"),
        ({"a": {"parameters": {"b": {"value": 1}}}}, "parameters.a: it is"),
    ],
)
def test_what_cannot_be_searched_is_refused(parameters, words):
    with pytest.raises(ValueError, match=f"^space.yaml.*{words}"):
        read_space(written(parameters))


@pytest.mark.parametrize(
    ("others", "words"),
    [
        ({"method": "grids"}, "method is grids: give one of bayes, random, grid"),
        ({"method": None}, "method is None"),
        ({"metric": None}, "metric is None: give a validation metric and a goal, as `metric: {name: val/acc, goal: m"),
        ({"metric": {"name": "val/acc"}}, "metric is"),
        ({"metric": {"name": "val/acc", "goal": "up"}}, "metric is"),
        ({"metric": {"name": "test/acc", "goal": "maximize"}}, "metric is .*give a validation metric"),
    ],
)
def test_method_and_metric_are_needed(others, words):
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
    assert space.varied["model.network.init_args.hidden"] == IntDistribution(64, 256)
