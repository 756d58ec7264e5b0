"""What a command line becomes: which setting wins, which is refused, and what the Trainer gets."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer

from litcnn.__main__ import main
from litengine import project
from litengine.cli.trainer import CLI, NO_EFFECT

CONFIGS = Path(__file__).parents[3] / "configs"
DIGITS = ["--config", str(CONFIGS / "digits.yaml")]


class Started(CLI):
    """Stops before the fit."""

    def fit(self, **kwargs: Any) -> None: ...

    def after_fit(self) -> None: ...


def started(*args: str) -> Started:
    project.use("litcnn.model.ImageClassifier", "litcnn.data.ImageData")
    return Started(["fit", *args])


def refused(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    with pytest.raises(SystemExit) as stopped:
        main(["fit", *args])
    assert stopped.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize("flags", [["--trainer.max_epochs", "3"], ["--trainer.max_epochs=3"], ["--epochs", "3"]])
@pytest.mark.parametrize("first", [True, False])
def test_flags_win_over_configs_wherever_they_stand(flags: list[str], first: bool) -> None:
    assert started(*(flags + DIGITS if first else DIGITS + flags)).trainer.max_epochs == 3


def test_a_bare_name_finds_the_setting_of_the_class_that_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BS", "17")
    Path("mine.yaml").write_text(
        "data: {batch_size: '${BS}'}\nmodel: {optimizer: {class_path: litengine.optim.Muon}}\n"
    )
    cli = started("--config", "mine.yaml", "--dropout", "0.25", "--lr", "0.5")
    model = cli.config.fit.model
    assert model.network.init_args.dropout == 0.25 and model.optimizer.init_args.lr == 0.5
    assert cli.datamodule.batch_size == 17


OVERRIDDEN = [
    (["--lr", "5"], "--model.optimizer.lr 5 has no effect", "--model.lr_scheduler.max_lr"),
    (["--model.optimizer.betas", "[0.8,0.9]"], "betas", "--model.lr_scheduler.max_momentum"),
    (["--model.parameter_groups", "{norms: {lr: 1.0}}"], "norms.lr", "max_lr"),
    (["--data.folds", "5", "--data.val_fraction", "0.2"], "--data.val_fraction 0.2", "data.folds"),
]


@pytest.mark.parametrize(("args", "words"), [(args, words) for args, *words in OVERRIDDEN])
def test_a_setting_that_another_one_overrides_is_refused(
    args: list[str], words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    message = refused(capsys, *DIGITS, *args)
    assert all(word in message for word in words), message


@pytest.mark.parametrize("second", [["with/one_cycle.yaml"], ["with/cosine.yaml"]])
def test_a_later_config_may_replace_the_schedule_for_which_a_rate_was_given(second: list[str]) -> None:
    started("--config", str(CONFIGS / "cnn.yaml"), "--data.source", "Digits", "--config", str(CONFIGS / second[0]))


def test_a_random_seed_is_random_and_recorded() -> None:
    seeds = {started("--seed_everything", "true").config.fit.seed_everything for _ in range(3)}
    assert len(seeds) == 3 and all(type(seed) is int for seed in seeds)


def has(name: str) -> Callable[[Trainer], bool]:
    return lambda trainer: any(name in type(callback).__name__ for callback in trainer.callbacks)


# Arguments of the Trainer that are honoured: a value, and what it changes. The others have no effect and are refused.
HONOURED: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "accelerator": ("cpu", lambda trainer: type(trainer.accelerator).__name__ == "CPUAccelerator"),
    "strategy": ("ddp", lambda trainer: type(trainer.strategy).__name__ == "DDPStrategy"),
    "devices": ("2", lambda trainer: trainer.num_devices == 2),
    "num_nodes": ("1", lambda trainer: trainer.num_nodes == 1),  # more need torchrun or srun
    "precision": ("bf16-mixed", lambda trainer: trainer.precision == "bf16-mixed"),
    "logger": ("false", lambda trainer: len(trainer.loggers) == 1),  # metrics.csv is always written
    "callbacks": ('[{"class_path": "LearningRateMonitor"}]', has("LearningRateMonitor")),
    "fast_dev_run": ("3", lambda trainer: trainer.max_steps == 3 and not trainer.loggers),
    "max_epochs": ("3", lambda trainer: trainer.max_epochs == 3),
    "min_epochs": ("2", lambda trainer: trainer.min_epochs == 2),
    "max_steps": ("5", lambda trainer: trainer.max_steps == 5),
    "min_steps": ("4", lambda trainer: trainer.min_steps == 4),
    "max_time": ("00:00:01:00", has("Timer")),
    "limit_train_batches": ("2", lambda trainer: trainer.limit_train_batches == 2),
    "limit_val_batches": ("2", lambda trainer: trainer.limit_val_batches == 2),
    "limit_test_batches": ("2", lambda trainer: trainer.limit_test_batches == 2),
    "overfit_batches": ("2", lambda trainer: trainer.overfit_batches == 2),
    "val_check_interval": ("0.5", lambda trainer: trainer.val_check_interval == 0.5),
    "check_val_every_n_epoch": ("2", lambda trainer: trainer.check_val_every_n_epoch == 2),
    "num_sanity_val_steps": ("1", lambda trainer: trainer.num_sanity_val_steps == 1),
    "log_every_n_steps": ("7", lambda trainer: trainer.log_every_n_steps == 7),
    "enable_progress_bar": ("false", lambda trainer: trainer.progress_bar_callback is None),
    "enable_model_summary": ("true", has("ModelSummary")),
    "accumulate_grad_batches": ("2", lambda trainer: trainer.accumulate_grad_batches == 2),
    "gradient_clip_val": ("0.5", lambda trainer: trainer.gradient_clip_val == 0.5),
    "gradient_clip_algorithm": ("value", lambda trainer: trainer.gradient_clip_algorithm == "value"),
    "deterministic": ("true", lambda trainer: torch.are_deterministic_algorithms_enabled()),
    "benchmark": ("true", lambda trainer: torch.backends.cudnn.benchmark),
    "inference_mode": ("false", lambda trainer: not trainer.validate_loop.inference_mode),
    "profiler": ("simple", lambda trainer: type(trainer.profiler).__name__ == "SimpleProfiler"),
    "detect_anomaly": ("true", lambda trainer: trainer._detect_anomaly),
    "barebones": ("true", lambda trainer: trainer.barebones and not trainer.loggers),
    "plugins": (
        '{"class_path": "lightning.pytorch.plugins.HalfPrecision"}',
        lambda trainer: "true" in trainer.precision,
    ),
    "sync_batchnorm": ("true", lambda trainer: True),  # on GPUs; left out on a CPU, with a note
    "reload_dataloaders_every_n_epochs": ("1", lambda trainer: True),  # loaders are functions of the epoch
    "default_root_dir": ("elsewhere", lambda trainer: trainer.default_root_dir.endswith("elsewhere")),
}


def test_every_argument_of_the_trainer_is_honoured_or_refused() -> None:
    assert {*HONOURED, *NO_EFFECT} == {*inspect.signature(Trainer).parameters}
    assert not HONOURED.keys() & NO_EFFECT.keys()


@pytest.mark.parametrize("name", HONOURED)
def test_an_argument_of_the_trainer_is_honoured(name: str) -> None:
    value, is_honoured = HONOURED[name]
    deterministic, benchmark = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    try:
        assert is_honoured(started("--trainer.logger", "false", f"--trainer.{name}", value).trainer)
    finally:
        torch.use_deterministic_algorithms(deterministic)
        torch.backends.cudnn.benchmark = benchmark


@pytest.mark.parametrize("name", NO_EFFECT)
def test_an_argument_of_the_trainer_without_effect_is_refused(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    value = {"limit_predict_batches": "2", "model_registry": "mine"}.get(name, "false")
    assert f"trainer.{name}" in (message := refused(capsys, f"--trainer.{name}", value)) and "no effect" in message


@pytest.mark.parametrize("strategy", ["fsdp", "deepspeed"])
def test_a_strategy_that_splits_the_weights_is_refused(strategy: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--trainer.strategy ddp" in refused(capsys, "--trainer.strategy", strategy, "--trainer.accelerator", "cpu")


def test_barebones_and_fast_dev_run_work_with_a_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    few = ["--trainer.limit_train_batches", "2", "--trainer.limit_val_batches", "1", "--trainer.max_epochs", "1"]
    main(["fit", *DIGITS, *few, "--trainer.barebones", "true"])
    main(["fit", *DIGITS, "--trainer.fast_dev_run", "true"])
    assert "Dummy" not in capsys.readouterr().out
