"""The verb `study`: train many times, vary one thing, and say what came out."""

import shlex
import sys


def run_verb(args: list[str]) -> None:
    """Runs a command line that begins with `study`; all options that are not its own are fit's.

    A study is one directory, `<runs>/<name>/`: each run is trained by a process of its own and has a directory in it.
    The same command goes on with a study that was stopped: finished runs are not repeated, unfinished ones resumed.

    Raises:
        ValueError: for what is wrong with the options, the settings, the space or the storage, before anything is
            trained; where a run failed.
        SystemExit: where it was asked to stop (exit code 128 + signal).
    """
    from litengine.study.options import parse

    options = parse(args[1:])
    if options.space is None:
        from litengine.study.repeat import repeat as carry_out
    else:
        from litengine.study.search import search as carry_out
    if (stopped_by := carry_out(options)) is not None:
        print(f"stopped; go on with: python main.py {shlex.join(args)}")
        sys.exit(128 + stopped_by)
