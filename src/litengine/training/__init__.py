"""What happens beside training, one concern a file.

The names are imported at their first use, so that a study can look into run directories without torch.
"""

from importlib import import_module
from typing import Any

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
