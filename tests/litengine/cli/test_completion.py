"""Completion as bash asks for it: words typed, and what is offered."""

import shutil
import subprocess
from pathlib import Path

import pytest

from litengine.cli import VERBS
from litengine.cli.completion import completion_script

BASH = shutil.which("bash")
pytestmark = pytest.mark.skipif(BASH is None, reason="there is no bash")
ASK = """
source ./script
complete -p litcnn
COMP_WORDS=("$@")
COMP_CWORD=$(($# - 1))
_litcnn
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def script() -> str:
    return completion_script()


@pytest.fixture
def offered(script: str):
    Path("script").write_text(script)

    def ask(*words: str) -> list[str]:
        command = [str(BASH), "--norc", "-c", ASK, "bash", "litcnn", *words]
        printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
        assert printed[0] == "complete -o default -F _litcnn litcnn"
        return [word for word in printed[1:] if word]

    return ask


def test_first_the_verbs(offered) -> None:
    assert offered("") == list(VERBS)
    assert offered("ex") == ["export"]
    assert offered("nothing") == []


def test_then_the_options_of_the_verb(offered) -> None:
    assert offered("fit", "--trainer.max_e") == ["--trainer.max_epochs"]
    assert offered("fit", "--config", "a.yaml", "--test_a") == ["--test_after_fit"]
    assert offered("test", "--test_a") == []
    assert offered("predict", "--im") == ["--images"]
    assert offered("export", "--for") == ["--format"]
    assert offered("demo", "--config") == []


@pytest.mark.parametrize(("verb", "own"), [("study", "--folds"), ("tune", "--config"), ("prepare", "--to")])
def test_verbs_that_hand_options_on_to_fit_have_both(offered, verb: str, own: str) -> None:
    assert offered(verb, own) == [own]
    assert offered(verb, "--data.batch_s") == ["--data.batch_size"]


def test_a_value_is_left_to_the_shell_which_offers_files(offered) -> None:
    assert offered("fit", "--config", "") == []
    assert offered("predict", "--images", "ca") == []
