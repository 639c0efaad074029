"""Fewer passes: points beyond the next EM iterate, believed only where a certificate allows.

An accelerator stands around any EM step. Of each chain it sees the points that a pass evaluated
(mixture, statistics, objective, EM image) and says which to evaluate next; EM itself is what is
left where it has nothing to say. See ``docs/acceleration.md``.
"""

from dgmm.acceleration.accelerator import Accelerator, Evaluated
from dgmm.acceleration.options import monotone_options
from dgmm.acceleration.regime import REGIMES, choose_regime
from dgmm.acceleration.state import AccelerationState

__all__ = [
    "REGIMES",
    "AccelerationState",
    "Accelerator",
    "Evaluated",
    "choose_regime",
    "monotone_options",
]
