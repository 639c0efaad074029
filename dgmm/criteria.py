"""The criteria that models are selected by."""

from __future__ import annotations

__all__ = ["CRITERIA"]

CRITERIA = {"bic": -1.0, "aic": -1.0, "icl": -1.0, "heldout": 1.0}
"""The criteria, with 1 where higher is better and −1 where lower is."""
