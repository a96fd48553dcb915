"""Add public sets to batteries: the part of the evaluators that the command line may use."""

from __future__ import annotations

from evaluators.instruments.adding import Added, Request, instruments_of, write_battery
from evaluators.instruments.presets import PRESETS

__all__ = ["PRESETS", "Added", "Request", "instruments_of", "write_battery"]
