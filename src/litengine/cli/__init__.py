"""The command line of a project: the verb is known before anything slow is imported."""

import re
import sys
from contextlib import suppress
from importlib import import_module
from pkgutil import resolve_name

from litengine import project

# A verb, what runs it (a function of its name has the options as arguments), and what it does
VERBS = {
    "fit": ("litengine.cli.trainer:CLI", "Train a network, and keep its best checkpoint."),
    "validate": ("litengine.cli.trainer:CLI", "Measure a checkpoint on the validation images."),
    "test": ("litengine.cli.trainer:CLI", "Measure a checkpoint on the test images, and write a report."),
    "predict": ("litengine.inference.predict:predict", "Tell the classes of image files and folders."),
    "export": ("litengine.export:export", "Write a checkpoint as ONNX, torch.export or safetensors."),
    "demo": ("litengine.demo:demo", "Open a web page that classifies images."),
    "tune": ("litengine.cli.tune:TuneCLI", "Find a learning rate, or the largest batch size."),
    "study": ("litengine.study:run_verb", "Train many times, over seeds, folds or a space of settings."),
    "prepare": ("litengine.cli.prepare:PrepareCLI", "Prepare the images of a config, or write them as a stream."),
}
EXAMPLES = """
  main.py fit --config configs/digits.yaml
  main.py test --ckpt_path best.ckpt
  main.py predict --ckpt_path best.ckpt --images cat.jpg folder/ '*.png'"""


def main(model: str, data: str, args: list[str] | None = None) -> None:
    """Runs a command line for a project.

    Args:
        model, data: import paths of the project's classes, derived from `litengine.module.ClassifierModule` and
            `litengine.datamodule.ClassificationData`.
        args: the words after the program's name; by default those of this process.
    """
    project.use(model, data)
    args = sys.argv[1:] if args is None else args
    args = [re.sub("^--[^=]+", lambda name: f"--{name[0][2:].replace('-', '_')}", word) for word in args]
    if args in (["--help"], ["-h"]):
        print("usage: main.py VERB [options]      (all options of a verb: main.py VERB --help)\n")
        print(*(f"  {verb:<8}  {does}" for verb, (_, does) in VERBS.items()), EXAMPLES, sep="\n")
        return
    if args == ["--version"]:
        print(f"{project.package()} {project.version()}")
        return

    from litengine.cli import errors

    try:
        _check_verb(args)
        if args[0] == "fit" and not re.search("no_tracker|--help", " ".join(args)):
            with suppress(ImportError):
                import_module("wandb.sdk.launch")  # it inspects all loaded modules: before torch that is quicker
        run = resolve_name(VERBS[args[0]][0])
        if run.__name__ == args[0]:
            from litengine.cli.function import call

            call(run, args)
        else:
            run(args)
    except KeyboardInterrupt:  # before or after a fit, which has its own way to stop
        sys.exit(130)
    except SystemExit as stop:
        # Lightning leaves a test that was stopped with 1 after Ctrl-C, and with 0 after SIGTERM, by a class of its own
        if isinstance(stop.__context__, KeyboardInterrupt) or type(stop) is not SystemExit:
            sys.exit(130 if stop.code else 143)
        raise
    except Exception as error:
        if not errors.is_for_the_user(error):
            raise
        errors.stop(errors.message(error))


def _check_verb(args: list[str]) -> None:
    """Raises ValueError for a command line that does not begin with a verb, or names checkpoints twice."""
    if not args or args[0] not in VERBS:
        if given := next((arg for arg in args if arg in VERBS), None):
            raise ValueError(f"{given} comes first, and all options and configs after it: {given} --config …")
        unknown = f"unknown verb {args[0]}: " if args and not args[0].startswith("-") else ""
        raise ValueError(f"{unknown}say what to do: {', '.join(VERBS)}")
    if [arg.partition("=")[0] for arg in args].count("--ckpt_path") > 1:
        raise ValueError("give --ckpt_path once; predict and test take several checkpoints after it")
