"""The verb `study`: trains many times, varies one thing, and reports the results."""

import shlex
import sys
from importlib.util import find_spec


def run_verb(args: list[str]) -> None:
    """Runs a command line that begins with `study`; options that are not its own go to fit.

    A study is one directory, `<runs>/<name>/`. Each run is trained by its own process and has a directory in it.
    The same command continues an interrupted study: finished runs are kept, unfinished ones are resumed.

    Raises:
        ValueError: for wrong options, settings or search spaces, before anything is trained; if a run fails.
        SystemExit: after a signal (exit code 128 + signal).
    """
    from litengine.study.options import parse

    options = parse(args[1:])
    if options.space is None:
        from litengine.study.repeat import repeat as run_study
    elif find_spec("optuna"):
        from litengine.study.search import search as run_study
    else:
        raise ValueError("a search needs Optuna: pip install -e '.[study]'")
    if (stopped_by := run_study(options)) is not None:
        print(f"stopped; to continue: python main.py {shlex.join(args)}")
        sys.exit(128 + stopped_by)
