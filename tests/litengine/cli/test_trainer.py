"""What a command line becomes: which setting wins, which is refused, and what the Trainer gets."""

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import FakeSource, fit
from lightning.pytorch import Callback, Trainer
from project_for_tests import DATA, MODEL, ImageClassifier, ImageData, main

from litengine import project
from litengine.cli.trainer import CLI, NO_EFFECT
from litengine.data import Arrays

CONFIGS = Path(__file__).parents[3] / "configs"
DIGITS = ["--config", str(CONFIGS / "digits.yaml")]


class Started(CLI):
    """Stops before the fit."""

    def fit(self, **kwargs: Any) -> None: ...

    def after_fit(self) -> None: ...


def started(*args: str) -> Started:
    project.use(MODEL, DATA)
    return Started(["fit", "--trainer.logger", "false", *args])


def refused(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    with pytest.raises(SystemExit) as stopped:
        main(["fit", *args])
    assert stopped.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize("flags", [["--trainer.max_epochs=3", *DIGITS], [*DIGITS, "--epochs", "3"]])
def test_flags_win_over_configs_wherever_they_stand(flags: list[str]) -> None:
    assert started(*flags).trainer.max_epochs == 3


def test_a_bare_name_finds_the_setting_of_the_class_that_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BS", "17")
    Path("mine.yaml").write_text(
        "data: {batch_size: '${BS}'}\nmodel: {optimizer: {class_path: litengine.optim.Muon}}\n"
    )
    cli = started("--config", "mine.yaml", "--dropout", "0.25", "--lr", "0.5")
    model = cli.config.fit.model
    assert model.network.init_args.dropout == 0.25 and model.optimizer.init_args.lr == 0.5
    assert cli.datamodule.batch_size == 17


def test_a_flag_changes_one_item_of_a_list() -> None:
    cnn = ["--config", str(CONFIGS / "cnn.yaml"), "--data.source", "Digits"]
    crop, flip = started(*cnn, "--data.augment.0.padding", "3").config.fit.data.augment
    assert crop.init_args.as_dict() == {"padding": 3, "mode": "zeros"} and flip.class_path.endswith("RandomFlip")


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


@pytest.mark.parametrize("overlay", ["with/one_cycle.yaml", "with/cosine.yaml"])
def test_a_later_config_may_replace_the_schedule_for_which_a_rate_was_given(overlay: str) -> None:
    started("--config", str(CONFIGS / "cnn.yaml"), "--data.source", "Digits", "--config", str(CONFIGS / overlay))


def test_a_random_seed_is_random_and_recorded() -> None:
    seeds = {started("--seed_everything", "true").config.fit.seed_everything for _ in range(2)}
    assert len(seeds) == 2 and all(type(seed) is int for seed in seeds)


# Every argument of the Trainer is honoured, or refused because it would have no effect


def has(name: str) -> Any:
    return lambda trainer: any(name in type(callback).__name__ for callback in trainer.callbacks)


def same(name: str, value: Any) -> Any:
    return lambda trainer: getattr(trainer, name) == value


# Command lines: the arguments that are given together, each with a value and whether the Trainer has it
HONOURED: list[dict[str, tuple[str, Any]]] = [
    {
        "accelerator": ("cpu", lambda trainer: type(trainer.accelerator).__name__ == "CPUAccelerator"),
        "strategy": ("ddp", lambda trainer: type(trainer.strategy).__name__ == "DDPStrategy"),
        "devices": ("2", same("num_devices", 2)),
        "num_nodes": ("1", same("num_nodes", 1)),  # more need torchrun or srun
        "precision": ("bf16-mixed", same("precision", "bf16-mixed")),
        "logger": ("false", lambda trainer: len(trainer.loggers) == 1),  # metrics.csv is always written
        "callbacks": ('[{"class_path": "LearningRateMonitor"}]', has("LearningRateMonitor")),
        "max_epochs": ("3", same("max_epochs", 3)),
        "min_epochs": ("2", same("min_epochs", 2)),
        "max_steps": ("50", same("max_steps", 50)),
        "min_steps": ("4", same("min_steps", 4)),
        "max_time": ("00:00:01:00", has("Timer")),
        "enable_progress_bar": ("false", same("progress_bar_callback", None)),
        "enable_model_summary": ("true", has("ModelSummary")),
        "deterministic": ("true", lambda trainer: torch.are_deterministic_algorithms_enabled()),
        "benchmark": ("true", lambda trainer: torch.backends.cudnn.benchmark),
        "inference_mode": ("false", lambda trainer: not trainer.validate_loop.inference_mode),
        "profiler": ("simple", lambda trainer: type(trainer.profiler).__name__ == "SimpleProfiler"),
        "detect_anomaly": ("true", lambda trainer: trainer._detect_anomaly),
        "default_root_dir": ("elsewhere", lambda trainer: trainer.default_root_dir.endswith("elsewhere")),
        "sync_batchnorm": ("true", lambda trainer: any("no sync_batchnorm" in str(vars(c)) for c in trainer.callbacks)),
    },
    {"fast_dev_run": ("3", lambda trainer: trainer.max_steps == 3 and not trainer.loggers)},
    {"barebones": ("true", lambda trainer: trainer.barebones and not trainer.loggers)},
    {
        "plugins": (
            '{"class_path": "lightning.pytorch.plugins.HalfPrecision"}',
            lambda trainer: "true" in trainer.precision,
        )
    },
]


@pytest.mark.parametrize("together", HONOURED, ids=lambda together: next(iter(together)))
def test_an_argument_of_the_trainer_arrives(together: dict[str, tuple[str, Any]]) -> None:
    deterministic, benchmark = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    words = [word for name, (value, _) in together.items() for word in (f"--trainer.{name}", value)]
    try:
        made = started(*words).trainer
        assert not [name for name, (_, arrived) in together.items() if not arrived(made)]
    finally:
        torch.use_deterministic_algorithms(deterministic)
        torch.backends.cudnn.benchmark = benchmark


class ByClass(FakeSource):
    """Images in the order of their classes, as in a folder: 30 to train on, 15 to validate and to test."""

    def __init__(self) -> None:
        super().__init__(val=(5, 5, 5))

    def load(self, split: Any) -> Arrays | None:
        arrays = super().load(split)
        assert arrays is not None
        order = arrays.labels.argsort()
        return arrays._replace(images=arrays.images[order], labels=arrays.labels[order])


class Watch(Callback):
    """The epoch and the labels of each batch, and the largest gradient that a step used."""

    def __init__(self) -> None:
        self.train: list[tuple[int, list[int]]] = []
        self.val: list[tuple[int, list[int]]] = []
        self.test: list[tuple[int, list[int]]] = []
        self.steps, self.largest = 0, 0.0

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, *_: Any) -> None:
        self.train.append((trainer.current_epoch, sorted(batch[1].tolist())))

    def on_validation_batch_start(self, trainer: Any, module: Any, batch: Any, *_: Any) -> None:
        self.val.append((trainer.current_epoch, sorted(batch[1].tolist())))

    def on_test_batch_start(self, trainer: Any, module: Any, batch: Any, *_: Any) -> None:
        self.test.append((0, sorted(batch[1].tolist())))

    def on_before_zero_grad(self, trainer: Any, module: Any, optimizer: Any) -> None:
        gradients = [float(each.grad.abs().max()) for each in module.parameters() if each.grad is not None]
        self.largest = max([self.largest, *gradients])

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        self.steps = trainer.global_step


def watched(**settings: Any) -> Watch:
    """A fit of three epochs of five batches of six images, with three batches of validation, and a test."""
    watch = Watch()
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 3))
    model = ImageClassifier(network, lambda groups: torch.optim.SGD(groups, lr=0.1), lr_scheduler=None)
    data = ImageData(ByClass(), batch_size=6, augment=[])
    fit(model, data, watch, **{"epochs": 3, "num_sanity_val_steps": 0, **settings}).test(model, data, verbose=False)
    return watch


MIXED = [0, 0, 1, 1, 2, 2]
# What a loader that is not a DataLoader has to carry out itself: a value, and what must be true of the fit
CARRIED_OUT: dict[str, tuple[Any, Any]] = {
    "limit_train_batches": (2, lambda watch: [epoch for epoch, _ in watch.train] == [0, 0, 1, 1, 2, 2]),
    "limit_val_batches": (1, lambda watch: watch.val == [(epoch, MIXED) for epoch in range(3)]),
    "limit_test_batches": (0.34, lambda watch: watch.test == [(0, MIXED)]),
    "overfit_batches": (
        1,
        lambda watch: (
            watch.train == [(epoch, watch.train[0][1]) for epoch in range(3)]
            and watch.val == [(epoch, MIXED) for epoch in range(3)]
        ),
    ),
    "val_check_interval": (2, lambda watch: len(watch.val) == 2 * 3 * 3),
    "check_val_every_n_epoch": (2, lambda watch: [epoch for epoch, _ in watch.val] == [1, 1, 1]),
    "num_sanity_val_steps": (1, lambda watch: len(watch.val) == 1 + 3 * 3),
    "accumulate_grad_batches": (2, lambda watch: watch.steps == 3 * 3),
    "reload_dataloaders_every_n_epochs": (1, lambda watch: watch.train == watched().train),  # functions of the epoch
    "gradient_clip_val": (0.01, lambda watch: 0 < watch.largest <= 0.0101),
    "gradient_clip_algorithm": ("value", lambda watch: 0.0099 < watch.largest <= 0.0101),
}


@pytest.mark.parametrize("name", CARRIED_OUT)
def test_an_argument_of_the_trainer_is_carried_out(name: str) -> None:
    value, is_true = CARRIED_OUT[name]
    others = {"gradient_clip_val": 0.01} if name == "gradient_clip_algorithm" else {}
    watch = watched(**{name: value}, **others)
    assert is_true(watch), vars(watch)


@pytest.mark.parametrize("name", NO_EFFECT)
def test_an_argument_of_the_trainer_without_effect_is_refused(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    value = {"limit_predict_batches": "2", "model_registry": "mine"}.get(name, "false")
    assert f"trainer.{name}" in (message := refused(capsys, f"--trainer.{name}", value)) and "no effect" in message


def test_every_argument_of_the_trainer_is_one_of_these() -> None:
    each = [*(name for together in HONOURED for name in together), *CARRIED_OUT, *NO_EFFECT]
    each.append("log_every_n_steps")  # tests/litcnn/test_model.py
    assert sorted(each) == sorted(inspect.signature(Trainer).parameters)


def test_a_way_of_clipping_without_a_limit_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert "gradient_clip_val too" in refused(capsys, "--trainer.gradient_clip_algorithm", "value")


@pytest.mark.parametrize("strategy", ["fsdp", "deepspeed"])
def test_a_strategy_that_splits_the_weights_is_refused(strategy: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--trainer.strategy ddp" in refused(capsys, "--trainer.strategy", strategy, "--trainer.accelerator", "cpu")


def test_barebones_and_fast_dev_run_work_with_a_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    few = ["--trainer.limit_train_batches", "2", "--trainer.limit_val_batches", "1", "--trainer.max_epochs", "1"]
    main(["fit", *DIGITS, *few, "--trainer.barebones", "true"])
    main(["fit", *DIGITS, "--trainer.fast_dev_run", "true"])
    assert "Dummy" not in capsys.readouterr().out
