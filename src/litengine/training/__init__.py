"""What happens beside training, one concern a file."""

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
