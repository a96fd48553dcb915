"""Export graders: the part of the evaluators that the command line may use, or a sentence on what it needs."""

from __future__ import annotations

from registry_gate.errors import ConfigError

try:
    from evaluators.graders.export import Exported, ExportRequest, export_grader
except ImportError as err:
    raise ConfigError(
        f"expected the packages that an export needs, got none of the name {err.name}: "
        "pip install 'registry-gate[worker,export]'",
        code="packages_missing",
    ) from err

__all__ = ["ExportRequest", "Exported", "export_grader"]
