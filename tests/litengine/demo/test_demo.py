"""The verb, as far as it goes without a server; the rest is in tests/e2e."""

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
