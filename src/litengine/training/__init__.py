"""What happens beside training, one concern a file.

The names are imported at their first use, so that a study can look into run directories without torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from litengine.training.batch_picture import BatchPicture
    from litengine.training.calibration import FitTemperature
    from litengine.training.checkpoints import Checkpoints
    from litengine.training.config_record import RecordConfig, as_settings
    from litengine.training.console import Console
    from litengine.training.curves import DrawCurves
    from litengine.training.exact_resume import ExactResume
    from litengine.training.logger_steps import LoggerSteps
    from litengine.training.nan_guard import CheckNumerics, explain_out_of_memory
    from litengine.training.progress_bar import ProgressBar
    from litengine.training.signals import StopOnSignal
    from litengine.training.test_report import WriteReport

_HOMES = {
    "BatchPicture": "batch_picture",
    "CheckNumerics": "nan_guard",
    "Checkpoints": "checkpoints",
    "Console": "console",
    "DrawCurves": "curves",
    "ExactResume": "exact_resume",
    "FitTemperature": "calibration",
    "LoggerSteps": "logger_steps",
    "ProgressBar": "progress_bar",
    "RecordConfig": "config_record",
    "StopOnSignal": "signals",
    "WriteReport": "test_report",
    "as_settings": "config_record",
    "explain_out_of_memory": "nan_guard",
}
__all__ = [
    "BatchPicture",
    "CheckNumerics",
    "Checkpoints",
    "Console",
    "DrawCurves",
    "ExactResume",
    "FitTemperature",
    "LoggerSteps",
    "ProgressBar",
    "RecordConfig",
    "StopOnSignal",
    "WriteReport",
    "as_settings",
    "explain_out_of_memory",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
