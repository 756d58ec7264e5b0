"""Completion in the shell: a script that holds the options of all verbs, so that no Python starts at a TAB.

python -m litengine.cli.completion > ~/.local/share/bash-completion/completions/litcnn
"""

import contextlib
import io
import re

from litengine.cli import VERBS, main

SCRIPT = """\
_litcnn() {{
  local word=${{COMP_WORDS[COMP_CWORD]}} words=''
  if ((COMP_CWORD == 1)); then
    words='{verbs}'
  elif [[ $word == -* ]]; then
    case ${{COMP_WORDS[1]}} in
{cases}
    esac
  fi
  COMPREPLY=($(compgen -W "$words" -- "$word"))
}}
complete -o default -F _litcnn litcnn  # default: where nothing is offered, files
"""


def completion_script() -> str:
    """The script, for bash, and for zsh after `autoload bashcompinit && bashcompinit`."""
    cases = "\n".join(f"      {verb}) words='{' '.join(options_of(verb))}' ;;" for verb in VERBS)
    return SCRIPT.format(verbs=" ".join(VERBS), cases=cases)


def options_of(verb: str) -> list[str]:
    """The options that the help of a verb lists; those of `fit` too where the verb hands them on to it."""
    words = _help_of(verb)
    if "options of fit" in words or "fit --help" in words:
        words += _help_of("fit")
    return sorted(set(re.findall(r"(?<![\w-])--[a-z][\w.]*", words)))


def _help_of(verb: str) -> str:
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
        main([verb, "--help"])
    return said.getvalue()


if __name__ == "__main__":
    print(completion_script(), end="")
