"""What happens beside training, one concern a file.

The names are imported at their first use, so that a study can look into run directories without torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from litengine.training.calibration import FitTemperature as FitTemperature
    from litengine.training.checkpoints import Checkpoints as Checkpoints
    from litengine.training.config_record import LoggerSteps as LoggerSteps
    from litengine.training.config_record import RecordConfig as RecordConfig
    from litengine.training.config_record import as_settings as as_settings
    from litengine.training.console import Console as Console
    from litengine.training.console import ProgressBar as ProgressBar
    from litengine.training.exact_resume import ExactResume as ExactResume
    from litengine.training.nan_guard import CheckNumerics as CheckNumerics
    from litengine.training.nan_guard import explain_out_of_memory as explain_out_of_memory
    from litengine.training.pictures import BatchPicture as BatchPicture
    from litengine.training.pictures import DrawCurves as DrawCurves
    from litengine.training.signals import StopOnSignal as StopOnSignal
    from litengine.training.test_report import WriteReport as WriteReport

_HOMES = {
    "calibration": {"FitTemperature"},
    "checkpoints": {"Checkpoints"},
    "config_record": {"LoggerSteps", "RecordConfig", "as_settings"},
    "console": {"Console", "ProgressBar"},
    "exact_resume": {"ExactResume"},
    "nan_guard": {"CheckNumerics", "explain_out_of_memory"},
    "pictures": {"BatchPicture", "DrawCurves"},
    "signals": {"StopOnSignal"},
    "test_report": {"WriteReport"},
}


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
