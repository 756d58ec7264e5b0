import pytest

from litengine.study.options import parse, parse_seeds


@pytest.mark.parametrize(
    ("text", "seeds"),
    [("0..4", [0, 1, 2, 3, 4]), ("0,3,7", [0, 3, 7]), ("5", [5]), ("0..2,9", [0, 1, 2, 9]), (" 1 , 2 ", [1, 2])],
)
def test_seeds_are_a_range_a_list_or_both(text, seeds):
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("4..0", r"4..0 is upside down, did you mean 0..4\?"),
        ("-1", "give numbers of 0 or more, as in 0..4 or 0,3,7"),
        ("a", "--seeds is a: give numbers"),
        ("", "give numbers"),
        ("1,", "give numbers"),
        ("0-4", "give numbers"),
        ("0..3,2", "seed 2 comes more than once"),
    ],
)
def test_other_seeds_are_refused(text, words):
    with pytest.raises(ValueError, match=words):
        parse_seeds(text)


def test_what_is_not_a_study_s_is_fit_s_in_the_order_given():
    options = parse(
        ["--config", "a.yaml", "--folds", "5", "--data.batch_size=3", "--config", "b.yaml", "--trust", "x", "y"]
    )
    assert options.fit == ["--config", "a.yaml", "--data.batch_size=3", "--config", "b.yaml", "--trust", "x", "y"]
    assert (options.folds, options.seeds, options.space, options.workers, options.test) == (5, None, None, 1, False)


def test_an_option_of_fit_that_begins_like_one_of_the_study_s_is_fit_s():
    assert parse(["--folds", "2", "--run", "x", "--seed", "3"]).fit == ["--run", "x", "--seed", "3"]


@pytest.mark.parametrize(
    ("given", "test"), [(["--test"], True), (["--test", "true"], True), (["--test", "false"], False)]
)
def test_the_test_set_is_asked_for_by_test(given, test):
    assert parse(["--seeds", "0", *given]).test is test


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ([], "say what to vary: give one of --folds 5, --seeds 0..4, --space"),
        (["--folds", "5", "--seeds", "0..4"], "--folds and --seeds exclude each other"),
        (["--folds", "1"], "--folds is 1: 2 or more is needed"),
        (["--folds", "five"], "--folds: invalid int value: 'five'"),
        (["--space", "s.yaml"], "say how many runs the search has: --trials 20"),
        (["--space", "s.yaml", "--trials", "0"], "--trials is 0: 1 or more is needed"),
        (["--folds", "5", "--workers", "0"], "--workers is 0: 1 or more"),
        (["--folds", "5", "--trials", "20"], "--trials belongs to a search"),
        (["--seeds", "0..4", "--storage", "sqlite:///a.db"], "--storage belongs to a search"),
        (["--folds", "5", "--data.fold", "2"], r"--data.fold is not for a study \(--folds varies it\)"),
        (["--seeds", "0..4", "--seed_everything=3"], "--seed_everything is not for a study"),
        (["--folds", "5", "--resume", "last"], "--resume is not for a study .*the same command again"),
        (["--folds", "5", "--print_config"], "--print_config is not for a study"),
        (["--folds", "5", "--test_after_fit=true"], "a study has --test true"),
        (["--folds", "5", "--ckpt_path", "a.ckpt"], "--ckpt_path is not for a study"),
        (["--folds", "5", "--trainer.default_root_dir", "x"], "a directory of its own"),
        (["--folds", "5", "--test", "maybe"], "--test: invalid choice: 'maybe'"),
    ],
)
def test_what_cannot_be_meant_is_refused(args, words):
    with pytest.raises(ValueError, match=words):
        parse(args)


def test_help_names_every_option(capsys):
    with pytest.raises(SystemExit) as stopped:
        parse(["--help"])
    assert stopped.value.code == 0
    printed = capsys.readouterr().out
    for option in ("--folds", "--seeds", "--space", "--trials", "--storage", "--workers", "--name", "--runs", "--test"):
        assert option in printed
