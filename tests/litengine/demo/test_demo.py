"""The verb, as far as it goes without a server; the rest is in tests/e2e."""

import subprocess
import sys

import pytest
from project_for_tests import main


def test_without_gradio_it_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("litengine.demo.find_spec", lambda name: None)
    with pytest.raises(SystemExit) as stopped:
        main(["demo", "--ckpt_path", "best.ckpt"])
    assert stopped.value.code == 2
    assert capsys.readouterr().err == 'error: demo needs Gradio, which is not installed: pip install -e ".[demo]"\n'


def test_its_help_waits_for_nothing_slow() -> None:
    program = (
        "import sys, litengine.demo; print([name for name in ('torch', 'gradio', 'numpy') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout == "[]\n"
