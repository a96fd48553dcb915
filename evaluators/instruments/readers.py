"""Read the published sets whose rows are more than a prompt: BBQ and TruthfulQA.

Each reader turns a row into the fields of a probe, or None for a row that the metric does not use.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from evaluators.instruments.files import Row, raw_value, value
from registry_gate.errors import AssessmentError

Fields = dict[str, Any]


def bbq(row: Row, metric: str) -> Fields | None:
    """A line of BBQ's `data/*.jsonl`.

    `label` is the right answer's number. The target is the one answer whose group is among the item's
    `stereotyped_groups`; a negative question is answered with the stereotype by naming the target, a non-negative one
    by naming the other person. The cluster is the question's template.

    Raises:
        AssessmentError: A key is missing, a label is none of 0, 1 and 2, or target or unknown are not exactly one.
    """
    condition = _one_of(row, "context_condition", ("ambig", "disambig"))
    if (metric, condition) in (("ambiguous_error", "disambig"), ("disambiguated_error", "ambig")):
        return None
    polarity = _one_of(row, "question_polarity", ("neg", "nonneg"))
    label = value(row, "label")
    if label not in ("0", "1", "2"):
        raise AssessmentError(f"{row.place}: expected a label of 0, 1 or 2, got {label!r}", code="probes_label")
    kinds = [_kind_of(row, number) for number in range(3)]
    if sorted(kinds) != ["other", "target", "unknown"]:
        raise AssessmentError(
            f"{row.place}: expected one stereotyped, one other and one unknown answer, got {', '.join(kinds)}",
            code="probes_label",
        )
    biased = "target" if polarity == "neg" else "other"
    roles = []
    for number, kind in enumerate(kinds):
        role = "unknown" if kind == "unknown" else "biased" if kind == biased else "counter"
        roles.append(f"right {role}" if str(number) == label else role)
    category = value(row, "category")
    return {
        "id": f"{category}-{value(row, 'example_id')}",
        "text": f"{value(row, 'context')}\n\n{value(row, 'question')}",
        "category": f"{category}, {'ambiguous' if condition == 'ambig' else 'disambiguated'}",
        "cluster": f"{category}-{value(row, 'question_index')}",
        "choices": tuple(value(row, f"ans{number}") for number in range(3)),
        "roles": tuple(roles),
    }


def _kind_of(row: Row, number: int) -> str:
    info = raw_value(row, f"answer_info.ans{number}")
    groups = raw_value(row, "additional_metadata.stereotyped_groups")
    if not isinstance(info, list) or not info or not isinstance(groups, list):
        raise AssessmentError(
            f"{row.place}: expected lists in answer_info and stereotyped_groups, got others",
            code="probes_format",
        )
    if "unknown" in info:
        return "unknown"
    return "target" if set(map(str, info)) & set(map(str, groups)) else "other"


def truthfulqa(row: Row, metric: str) -> Fields | None:
    """A question of TruthfulQA: an item of `mc_task.json`, or a row of `TruthfulQA.csv`.

    MC1 compares the best answer with the false ones, MC2 all true ones with all false ones. An answer that the file
    lists twice is used once; one that it lists as true and as false (there is one in the published table) is left out.

    Raises:
        AssessmentError: A column is missing, or there are no true or no false answers.
    """
    if metric not in ("mc1_error", "mc2_error"):
        raise AssessmentError(
            f"{row.place}: expected metric mc1_error or mc2_error with reader truthfulqa, got {metric}",
            code="probes_unsuited",
        )
    which = "mc1_targets" if metric == "mc1_error" else "mc2_targets"
    if "question" in row.values:
        question, category = value(row, "question"), "truthfulqa"
        targets = raw_value(row, which)
        if not isinstance(targets, Mapping) or not all(mark in (0, 1) for mark in targets.values()):
            raise AssessmentError(
                f"{row.place}: expected 0 or 1 for each answer in {which}, got something else", code="probes_label"
            )
        true = [answer for answer, mark in targets.items() if mark == 1]
        false = [answer for answer, mark in targets.items() if mark == 0]
    else:
        question, category = value(row, "Question"), value(row, "Category") or "truthfulqa"
        best = [value(row, "Best Answer")] if metric == "mc1_error" else []
        true = best or _listed(value(row, "Correct Answers"))
        false = _listed(value(row, "Incorrect Answers"))
    both = set(_distinct(true)) & set(_distinct(false))
    true, false = ([answer for answer in _distinct(side) if answer not in both] for side in (true, false))
    if not true or not false:
        raise AssessmentError(
            f"{row.place}: expected true and false answers, got {len(true)} and {len(false)}, {len(both)} marked both",
            code="probes_label",
        )
    probe_id = str(row.number)
    return {
        "id": probe_id,
        "text": question,
        "category": category,
        "cluster": probe_id,
        "choices": (*true, *false),
        "roles": ("true",) * len(true) + ("false",) * len(false),
    }


def _listed(cell: str) -> list[str]:
    return [part.strip() for part in re.split(r";", cell) if part.strip()]


def _distinct(answers: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(answer.strip() for answer in answers if answer.strip()))


def _one_of(row: Row, column: str, allowed: tuple[str, ...]) -> str:
    found = value(row, column)
    if found not in allowed:
        raise AssessmentError(
            f"{row.place}: expected {column} to be {' or '.join(allowed)}, got {found!r}", code="probes_label"
        )
    return found


READERS: Mapping[str, Callable[[Row, str], Fields | None]] = {"bbq": bbq, "truthfulqa": truthfulqa}
"""By the name that batteries use."""
