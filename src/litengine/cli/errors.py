"""Errors of the user: one line that says what was given, where, and what was probably meant."""

import errno
import os
import re
import sys
import traceback
from argparse import ArgumentError
from typing import NoReturn

from jsonargparse import ArgumentParser

from litengine import project
from litengine.cli.settings import Settings
from litengine.files import visible

NOT_A_BUG = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR, errno.EISDIR}
LIBRARIES = ("torch", "torchvision", "lightning", "timm", "jsonargparse")
PLAINER = {  # what jsonargparse says, and what a user understands
    r"<class '(?:\w+\.)*(\w+)'>|typing\.": r"\1",
    r"(a )?\bNoneType\b": "null",
    r"(a )?dot import path string: \S+": "a full import path, as in torch.nn.ReLU",
    r"(?s)\s*Subclass types expect one of:.*": "",
    "Option 'class_path' is not accepted": "the arguments of a class belong under its init_args",
}


def stop(message: str) -> NoReturn:
    """Ends the program with one line and exit code 2."""
    print("error:", "\n".join(map(visible, message.strip().split("\n"))), file=sys.stderr)  # a library's has several
    sys.exit(2)


def is_for_the_user(error: Exception) -> bool:
    """Whether the message says all that the user needs: a ValueError or OSError of this program, an error of a library
    about its settings (while it is built from them, or in one of Lightning's callbacks), a full or protected disk.

    A bug keeps its traceback; so does everything with `LITENGINE_TRACEBACK=1`.
    """
    if os.environ.get("LITENGINE_TRACEBACK"):
        return False
    if _in_restoring(error):
        return True
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    module = str(frames[-1].f_globals.get("__name__"))
    package = module.partition(".")[0]
    if package in ("litengine", project.package()):
        return isinstance(error, ValueError | OSError)
    if isinstance(error, OSError):
        return error.errno in NOT_A_BUG
    if package == "lightning" and (isinstance(error, ValueError) or "Misconfiguration" in type(error).__name__):
        return True
    builders = {"instantiate_classes", "configure_optimizers"} & {frame.f_code.co_name for frame in frames}
    of_settings = (builders and package in LIBRARIES) or module.startswith("lightning.pytorch.callbacks.")
    return bool(of_settings) and isinstance(error, ValueError | TypeError | RuntimeError | ImportError)


def message(error: Exception) -> str:
    """What `stop` prints of an error that is for the user."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    if _in_restoring(error):
        return f"the checkpoint cannot be restored: {error!r} ({os.path.basename(frame.filename)}, line {frame.lineno})"
    return _reason(error) if "/jsonargparse/" in frame.filename else str(error)


def _in_restoring(error: Exception) -> bool:
    """Whether Lightning met the error while it restored a checkpoint, which may be damaged or a stranger's."""
    frames = traceback.extract_tb(error.__traceback__)
    restoring = any("checkpoint_connector" in frame.filename and "restore" in frame.name for frame in frames)
    return restoring and isinstance(error, AttributeError | IndexError | KeyError | RuntimeError | TypeError)


def explain(error: ArgumentError, args: list[str], parser: ArgumentParser) -> str:
    """jsonargparse's error about a command line in one line: the place, the reason, and a similar key."""
    settings, message, reason = Settings(args, parser), str(error), _reason(error)
    for place, plain in ((setting.place, setting.plain) for setting in reversed(settings.given)):
        exists = any(f"{key}.".startswith(f"{plain}.") for key in settings.known)
        if not exists and plain.rpartition(".")[2] in re.findall(r"\w+", reason):
            what, dashes = (f"{place}unknown key ", "") if place else ("unknown option --", "--")
            return f"{what}{plain}{settings.meant(plain, dashes)}"
    if message.startswith("unrecognized arguments"):
        if message.endswith(".ckpt"):
            return f"{message}: write --ckpt_path best.ckpt (only test and predict take several after it)"
        return f"{message}: write an option as in --data.batch_size 32, a config as in --config configs/cnn.yaml"
    key = ".".join(dict.fromkeys(re.findall('Parser key "([^"]+)"', message)))
    if not (about := [setting for setting in reversed(settings.given) if setting.plain == key]):
        return f"{key}: {reason}" if key else reason
    # the last one that was given, unless the message is about the value of another
    said, wrong = message.partition(" value: ")[0], re.findall("(?:Got|Given) value: (.*)", message)
    fits = [(any(w in each.value for w in wrong), (each.value in said) * len(each.value)) for each in about]
    setting = about[fits.index(max(fits))]
    return f"{setting} is {setting.value}: {reason.removesuffix(f'. Got value: {setting.value}')}"


def _reason(error: BaseException) -> str:
    """The error from which the others of jsonargparse were raised: it says the reason without their dumps of types."""
    outer = error
    while error.__cause__ is not None and type(error.__cause__) is not KeyError:  # which has only the key
        outer, error = error, error.__cause__
    # of a union, the reasons why the value has none of its types
    found = re.search(r"Errors:\n(.*)\nGiven value type", str(outer), re.S)
    reason = re.sub("^ *- ", "or ", found[1], flags=re.M).removeprefix("or ") if found else str(error)
    if isinstance(error, ModuleNotFoundError) and error.name:
        reason += f": pip install {error.name}, or is {error.name}.py in another folder?"
    for pattern, plainer in PLAINER.items():
        reason = re.sub(pattern, plainer, reason)
    return " ".join(reason.split())
