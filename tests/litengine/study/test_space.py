from pathlib import Path

import optuna
import pytest
import yaml
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from litengine.study.space import read_space

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
    metric = {"name": "val/loss", "goal": "minimize"}
    space = read_space(written({**fixed, "b": {"min": 1, "max": 2}}, metric=metric, method="random"))
    assert (space.metric, space.mode, space.method) == ("val/loss", "min", "random")
    assert space.record()["varied"] == {"b": {"log": False, "step": 1, "low": 1, "high": 2}}
    assert space.options({"b": 2}) == ["--a=[1, 2]", "--c=x", "--b=2"]


def test_a_grid_has_all_combinations_of_lists():
    space = read_space(written({"a": {"values": ["x", [1]]}, "b": {"values": [2, 3]}}, method="grid"))
    assert [tuple(chosen.values()) for chosen in space.grid()] == [("x", 2), ("x", 3), ("[1]", 2), ("[1]", 3)]
    with pytest.raises(ValueError, match=r"method grid needs `values: \[…\]` for every parameter"):
        read_space(written({"d": {"min": 0.0, "max": 1.0}}, method="grid")).grid()


@pytest.mark.parametrize("value", [0.00031, 32, "torch.optim.SGD", True, None, [8, 16], {"class_path": "a.B"}])
def test_a_value_becomes_one_option(value):
    space = read_space(written({"k": {"value": value}, "v": {"min": 0, "max": 1}}))
    name, _, text = space.options({"v": 0})[0].partition("=")
    assert name == "--k" and yaml.safe_load(text) == value


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({}, "no parameter varies"),
        ({"a": {"value": 1}}, "no parameter varies: give one of them `values"),
        ({"a": {"min": 0.1, "max": 0.01}}, r"parameters.a: `low <= high` must hold, but got \(low=0.1, high=0.01"),
        ({"a": {"min": 0.1}}, r"parameters.a: it is {'min': 0.1}: write `values: \[…\]`, or `min:` and `max:`"),
        *(
            ({"a": given}, "parameters.a: it is")
            for given in ({"distribution": "uniform"}, 3, {"values": []}, {"values": [1], "distribution": "uniform"})
        ),
        ({"a": {"parameters": {"b": {"value": 1}}}}, "parameters.a: it is"),
        ({"a": {"min": 0, "max": 1, "distribution": "normal"}}, r"\(distributions: uniform, int_uniform"),
        ({"a": {"min": 0, "max": 1, "distribution": "log_uniform_values"}}, "a: `low > 0` must hold for `log=True`"),
        ({"a": {"min": 0.5, "max": 2, "distribution": "int_uniform"}}, "int_uniform needs whole numbers, not 0.5 to 2"),
        ({"a": {"min": 0, "max": 1, "q": 0, "distribution": "q_uniform"}}, "`step > 0` must hold"),
        ({"a": {"min": "1e-4", "max": 1}}, r"a: '1e-4' is not a number \(YAML reads 1e-4 as text: write 1.0e-4\)"),
        ({"a": {"min": True, "max": 2}}, "a: True is not a number"),
        ({"a": {"min": float("nan"), "max": 2}}, "a: nan is not a number"),
    ],
)
def test_a_parameter_that_cannot_be_searched_is_named(parameters, words):
    with pytest.raises(ValueError, match=f"^space.yaml.*{words}"):
        read_space(written(parameters))


@pytest.mark.parametrize(
    "others",
    [
        {"parameters": None},
        {"method": "grids"},
        {"method": None},
        {"metric": None},
        {"metric": {"name": "val/acc", "goal": "up"}},
        {"metric": {"name": "test/acc", "goal": "maximize"}},
    ],
)
def test_method_metric_of_validation_and_parameters_are_needed(others):
    with pytest.raises(ValueError, match="^space.yaml is not a search space: it needs `method: bayes`, .* it is {'m"):
        read_space(written(**{"parameters": {"a": {"min": 0, "max": 1}}, **others}))


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "cannot read the space space.yaml: .*No such file"), ("a: [", "cannot read"), ("", "not a search space")],
)
def test_a_file_that_is_no_space_is_named(content, words):
    if content is not None:
        Path("space.yaml").write_text(content)
    with pytest.raises(ValueError, match=words):
        read_space("space.yaml")


def test_the_shipped_space_is_read():
    space = read_space(str(SWEEP))
    assert space.metric == "val/acc" and len(space.varied) == 5
    assert space.varied["model.network.init_args.hidden"] == IntDistribution(64, 256)
