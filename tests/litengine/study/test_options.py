import pytest

from litengine.study.options import parse


@pytest.mark.parametrize(
    ("text", "seeds"),
    [("0..4", [0, 1, 2, 3, 4]), ("0,3,7", [0, 3, 7]), ("5", [5]), ("0..2,9", [0, 1, 2, 9]), (" 1 , 2 ", [1, 2])],
)
def test_seeds_are_a_range_a_list_or_both(text, seeds):
    assert parse(["--seeds", text]).seeds == seeds


def test_other_options_go_to_fit_in_their_order():
    fit = ["--config", "a.yaml", "--data.batch_size=3", "--config", "b.yaml", "--run", "x", "--seed", "3"]
    options = parse(["--folds", "5", *fit, "--trust", "x", "y"])
    assert options.fit == [*fit, "--trust", "x", "y"]
    assert (options.folds, options.seeds, options.space, options.workers, options.test) == (5, None, None, 1, False)


@pytest.mark.parametrize(
    ("given", "test"), [(["--test"], True), (["--test", "true"], True), (["--test", "false"], False)]
)
def test_test_is_a_flag_or_has_a_value(given, test):
    assert parse(["--seeds", "0", *given]).test is test


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ([], "one of the arguments --folds --seeds --space is required"),
        (["--folds", "5", "--seeds", "0..4"], "--seeds: not allowed with argument --folds"),
        (["--folds", "1"], "--folds: '1': give a whole number of 2 or more"),
        (["--folds", "five"], "--folds: 'five': give a whole number"),
        (["--space", "s.yaml", "--trials", "0"], "--trials: '0': give a whole number of 1 or more"),
        (["--folds", "5", "--workers", "0"], "--workers: '0': give a whole number of 1 or more"),
        (["--seeds", "4..0"], r"4..0 descends, did you mean 0..4\?"),
        (["--seeds=-1"], "--seeds: '-1': give numbers of 0 or more, as in 0..4 or 0,3,7"),
        (["--seeds", "1,"], "give numbers"),
        (["--seeds", "0-4"], "give numbers"),
        (["--seeds", "0..3,2"], "a seed that is repeated"),
        (["--folds", "5", "--trials", "20"], "--trials belongs to a search"),
        (["--seeds", "0..4", "--storage", "sqlite:///a.db"], "--storage belongs to a search"),
        (["--folds", "5", "--data.fold", "2"], r"--data.fold is not for a study \(--folds varies it\)"),
        (["--seeds", "0..4", "--seed_everything=3"], "--seed_everything is not for a study"),
        (["--folds", "5", "--resume", "last"], "--resume is not for a study .*the same command again"),
        (["--folds", "5", "--test", "maybe"], "--test: invalid choice: 'maybe'"),
    ],
)
def test_wrong_options_are_refused(args, words):
    with pytest.raises(ValueError, match=words):
        parse(args)
