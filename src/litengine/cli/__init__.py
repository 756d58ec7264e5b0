"""The command line of a project: the verb is known before anything slow is imported."""

import sys
from importlib import import_module

from litengine import project

# A verb, the module that runs it or has a function of its name, and what it does
TRAINER = "litengine.cli.trainer"
VERBS = {
    "fit": (TRAINER, "Train a network, and keep its best checkpoint."),
    "validate": (TRAINER, "Measure a checkpoint on the validation images."),
    "test": (TRAINER, "Measure a checkpoint on the test images, and write a report."),
    "predict": ("litengine.inference.predict", "Tell the classes of image files and folders."),
    "export": ("litengine.export", "Write a checkpoint as ONNX, torch.export or safetensors."),
    "demo": ("litengine.demo", "Open a web page that classifies images."),
    "tune": ("litengine.cli.tune", "Find a learning rate, or the largest batch size."),
    "study": ("litengine.study", "Train many times, over seeds, folds or a space of settings."),
    "prepare": (
        "litengine.cli.prepare",
        "Prepare the images of a config ahead of a run, or write a stream.",
    ),
}


def main(model: str, data: str, args: list[str] | None = None) -> None:
    """Runs a command line for a project.

    Args:
        model, data: import paths of the project's classes, derived from `litengine.module.ClassifierModule` and
            `litengine.datamodule.ClassificationData`.
        args: the words after the program's name; by default those of this process.
    """
    project.use(model, data)
    args = sys.argv[1:] if args is None else args
    if args in (["--help"], ["-h"]):
        print(overview())
        return
    if args == ["--version"]:
        print(f"{project.package()} {project.version()}")
        return

    from litengine.cli import errors

    if wrong := errors.wrong_verb(args, list(VERBS)):
        errors.stop(wrong)
    module = import_module(VERBS[args[0]][0])
    try:
        if hasattr(module, "run_verb"):
            module.run_verb(args)
        else:
            from litengine.cli.function import run

            run(getattr(module, args[0]), args)
    except KeyboardInterrupt:  # before or after a fit, which has its own way to stop
        sys.exit(130)
    except Exception as error:
        if not errors.is_for_the_user(error):
            raise
        errors.stop(str(error))


def overview() -> str:
    """What `--help` says."""
    width = max(map(len, VERBS))
    verbs = [f"  {verb:<{width}}  {does}" for verb, (_, does) in VERBS.items()]
    return "\n".join(
        [
            "usage: main.py VERB [options]      (all options of a verb: main.py VERB --help)",
            "",
            *verbs,
            "",
            "  main.py fit --config configs/digits.yaml",
            "  main.py test --ckpt_path best.ckpt",
            "  main.py predict --ckpt_path best.ckpt --images cat.jpg folder/ '*.png'",
        ]
    )
