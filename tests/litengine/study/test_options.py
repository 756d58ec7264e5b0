"""The command line, and the check that a study continues with the same settings."""

from pathlib import Path

import pytest

from litengine.study.options import check_same, directory_of, parse


@pytest.mark.parametrize(
    ("text", "seeds"), [("0..4", [0, 1, 2, 3, 4]), ("0,3,7", [0, 3, 7]), ("5", [5]), (" 0..2 , 9", [0, 1, 2, 9])]
)
def test_seeds_are_a_range_a_list_or_both(text, seeds):
    assert parse(["--seeds", text]).seeds == seeds


@pytest.mark.parametrize(("given", "test"), [([], False), (["--test"], True), (["--test", "false"], False)])
def test_other_options_go_to_fit_in_their_order(given, test):
    fit = ["--config", "a.yaml", "--data.batch_size=3", "--config", "b.yaml", "--run", "x", "--trust", "x", "y"]
    options = parse(["--folds", "5", *given, *fit])
    assert options.fit == fit and (options.folds, options.seeds, options.space, options.workers) == (5, None, None, 1)
    assert options.test is test


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ([], "one of the arguments --folds --seeds --space is required"),
        (["--folds", "5", "--seeds", "0..4"], "--seeds: not allowed with argument --folds"),
        (["--folds", "1"], "--folds is 1: give a whole number of 2 or more"),
        (["--folds", "5", "--workers", "0"], "--workers is 0: give a whole number of 1 or more"),
        *(
            (["--seeds", given], f"--seeds: '{given}': give different numbers")
            for given in ("4..0", "1,", "0-4", "1,1", "x")
        ),
        (["--folds", "5", "--trials", "20"], "--trials belongs to a search"),
        (["--folds", "5", "--data.fold", "2"], "--data.fold is not an option of this study"),
        (["--seeds", "0..4", "--seed_everything=3"], "--seed_everything is not an option of this study"),
        (["--folds", "5", "--resume", "last"], "--resume is not an option of this study"),
    ],
)
def test_wrong_options_are_refused(args, words):
    with pytest.raises(ValueError, match=words):
        parse(args)


@pytest.mark.parametrize(
    ("args", "name"),
    [
        (["--config", "configs/cnn.yaml", "--config", "configs/with/cosine.yaml"], "cnn-what"),
        (["-c", "configs/cnn.yaml"], "cnn-what"),
        ([], "digits-what"),
        (["--config=configs/cnn.yaml", "--name", "mine"], "mine"),
    ],
)
def test_a_study_is_named_after_the_first_config_and_what_it_varies(args, name):
    settings = {"data": {"source": {"class_path": "litengine.data.Digits"}}}
    assert (
        directory_of(parse(["--folds", "2", "--runs", "here", *args]), settings, "what") == Path.cwd() / "here" / name
    )


def recorded(folds=3, widths=(8, 16), **trainer):
    settings = {"model": {"widths": widths}, "trainer": {"max_epochs": 4, "logger": False, **trainer}, "runs": "x"}
    return {"folds": folds, "settings": settings}


@pytest.mark.parametrize(
    ("now", "words"),
    [
        (recorded(accelerator="gpu", logger=None), None),
        (recorded(max_epochs=5), "trainer.max_epochs was 4, is now 5;"),
        (recorded(widths=[8]), r"model.widths was \[8, 16\], is now \[8\];"),
        (recorded(folds=4, new=1), "folds was 3, is now 4, trainer.new was not set, is now 1;"),
        (recorded(a=1, b=1, c=1, d=1, e=1), "d was not set, is now 1, and 1 more; use those .*choose another --name"),
    ],
)
def test_other_settings_are_named_but_not_another_machine_or_tracker(now, words):
    if words is None:
        check_same(recorded(), now, "s")
    else:
        with pytest.raises(ValueError, match=f"s holds a study with other settings: .*{words}"):
            check_same(recorded(), now, "s")
