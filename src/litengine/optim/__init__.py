"""Optimizers, parameter groups and schedules that torch does not have. They know nobody else in this house."""

from litengine.optim.freezing import Frozen
from litengine.optim.groups import Role, check_settings, parameter_groups
from litengine.optim.muon import Muon
from litengine.optim.schedules import PiecewiseLinear, WarmupCosine, check_length, make_schedule

__all__ = [
    "Frozen",
    "Muon",
    "PiecewiseLinear",
    "Role",
    "WarmupCosine",
    "check_length",
    "check_settings",
    "make_schedule",
    "parameter_groups",
]
