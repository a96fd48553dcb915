"""Calibrate graders: the part of the evaluators that the command line may use, or a sentence on what it needs."""

from __future__ import annotations

from registry_gate.errors import ConfigError

try:
    from evaluators.graders.calibration import Calibrated, Columns, SourceFigures, calibrate, read_labelled
    from evaluators.graders.catalogue import load_grader
except ImportError as err:
    raise ConfigError(
        f"expected the packages that grade, got none of the name {err.name}: pip install 'registry-gate[worker]'",
        code="packages_missing",
    ) from err

__all__ = ["Calibrated", "Columns", "SourceFigures", "calibrate", "load_grader", "read_labelled"]
