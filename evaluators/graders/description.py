"""Read `grader.yaml`, whatever kind of grader it describes, and what the kinds have in common."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from evaluators.graders.interface import LABELS
from registry_gate.errors import AssessmentError

Described = TypeVar("Described", bound=BaseModel)


class SelfCheck(BaseModel):
    """A pair whose label is known, graded each time the grader is loaded."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    probe: str
    answer: str
    label: str


def read_description(path: Path, model: type[Described], what: str) -> Described:
    """The contents of a `grader.yaml`; nothing that it names is opened.

    Args:
        path: The file.
        model: What it must hold.
        what: That in words, e.g. `a judge`.

    Raises:
        AssessmentError: The file is missing, no YAML, or says something that it must not.
    """
    try:
        document = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as err:
        raise AssessmentError(f"{path}: expected a grader description, got no such file") from err
    except OSError as err:
        raise AssessmentError(f"{path}: expected a grader description, got none that can be read: {err}") from err
    except (ValueError, RecursionError, YAMLError) as err:  # a date that is none is a ValueError
        raise AssessmentError(f"{path}: expected readable YAML, got: {' '.join(str(err).split())}") from err
    try:
        return model.model_validate(document)
    except ValidationError as err:
        problems = "; ".join(
            f"{'.'.join(map(str, problem['loc'])) or 'document'}: {problem['msg'].removeprefix('Value error, ')}"
            for problem in err.errors(include_url=False, include_context=False)
        )
        raise AssessmentError(
            f"{path}: expected {what}, got: {problems}. Correct the file; every key is checked."
        ) from err


def require_labels(axis: str, labels: Sequence[str]) -> None:
    """Two labels for an axis of one's own, and none for an axis that has its own.

    Raises:
        ValueError: They are not so.
    """
    if axis in LABELS and labels:
        raise ValueError(f"labels: expected none on axis {axis}, which has its own, got {labels}")
    if axis not in LABELS and (len(labels) != 2 or labels[0] == labels[1]):
        raise ValueError(
            f"axis: expected one of {', '.join(LABELS)}, or two different labels, got {axis!r} with {labels or 'none'}"
        )
