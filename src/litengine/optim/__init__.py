"""Optimizers, parameter groups and schedules that torch does not have. They import no other part of the engine."""

from litengine.optim.freezing import Frozen
from litengine.optim.groups import Role, check_settings, decay_rates, parameter_groups
from litengine.optim.muon import Muon
from litengine.optim.schedules import PiecewiseLinear, Plateau, WarmupCosine, check_length, epochs_of_fit, make_schedule

__all__ = [
    "Frozen",
    "Muon",
    "PiecewiseLinear",
    "Plateau",
    "Role",
    "WarmupCosine",
    "check_length",
    "check_settings",
    "decay_rates",
    "epochs_of_fit",
    "make_schedule",
    "parameter_groups",
]
