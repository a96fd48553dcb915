"""Calibrate, pull and list graders for the command line, or a sentence on what that needs."""

from __future__ import annotations

from registry_gate.errors import ConfigError

try:
    from evaluators.graders.calibration import (
        Calibrated,
        Columns,
        SourceFigures,
        calibrate,
        read_labelled,
    )
    from evaluators.graders.catalogue import known_graders, load_grader
    from evaluators.graders.pulling import catalogue, pull, read_lock
except ImportError as err:
    raise ConfigError(
        f"expected the packages that grade, got none of the name {err.name}: pip install 'registry-gate[worker]'",
        code="packages_missing",
    ) from err

__all__ = [
    "Calibrated",
    "Columns",
    "SourceFigures",
    "calibrate",
    "catalogue",
    "known_graders",
    "load_grader",
    "pull",
    "read_labelled",
    "read_lock",
]
