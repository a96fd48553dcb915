"""Past decisions under other policies: each with its own moment, and what cannot be told is never guessed."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from datetime import timedelta
from typing import Any

import pytest
from policy_builders import (
    HARM,
    NOW,
    REFUSAL,
    make_assessment,
    make_evidence,
    make_form,
    make_measured,
    make_policy,
    make_rule,
    make_waiver,
)
from test_policy_meaning import make_set, match

from registry_gate.decision import Grants, Reason, Verdict
from registry_gate.policy.replay import Outcome, Past, counts, replay
from registry_gate.promotion import Target, TargetKind
from registry_gate.web.replay_plot import replay_svg

TARGET = Target(kind=TargetKind.ALIAS, model="m", name="champion")
STRICT = make_set(make_policy([make_rule(atMost=0.04), make_rule("R-2", REFUSAL)]))
LOOSE = make_set(make_policy())


def past(*, events: int = 3, allowed: bool = True, age_days: int = 0, **changes: Any) -> Past:
    moment = NOW - timedelta(days=age_days)
    assessment = make_assessment(
        make_measured(HARM, events, events), make_measured(REFUSAL), age=timedelta(days=age_days + 3)
    )
    values: dict[str, Any] = {
        "id": "d1",
        "target": TARGET,
        "version": "models:/m/1",
        "decided_at": moment,
        "allowed": allowed,
        "reasons": ()
        if allowed
        else (Reason(code="old", message="m", verdict=Verdict.FAIL, policy="one", rule="R-9"),),
        "form": make_form(),
        "evidence": (make_evidence(assessment),),
    }
    return Past(**{**values, **changes})


def test_a_tighter_policy_denies_what_was_allowed_and_says_by_which_rule() -> None:
    result = replay([past(), past(events=0)], LOOSE, STRICT)
    assert [one.outcome for one in result.results] == [Outcome.DENIED, Outcome.SAME]
    assert result.by_cause(Outcome.DENIED) == [("one R-1", 1)]
    assert result.changes
    assert counts(result) == {"same": 1, "denied": 1, "released": 0, "not replayed": 0}


def test_the_other_way_round_a_denial_is_released() -> None:
    result = replay([past()], STRICT, LOOSE)
    assert result.results[0].outcome is Outcome.RELEASED and result.results[0].causes == ("one R-1",)


def test_one_set_is_compared_with_what_was_decided_then() -> None:
    result = replay([past(allowed=False), past(), past(events=60)], None, LOOSE)
    assert [one.outcome for one in result.results] == [Outcome.RELEASED, Outcome.SAME, Outcome.DENIED]
    assert result.results[0].causes == ("one R-9",)


def test_evidence_is_as_old_as_it_was_then() -> None:
    """Decided two years ago on evidence of three days: fresh then, and so it stays."""
    assert replay([past(age_days=700)], None, LOOSE).results[0].outcome is Outcome.SAME


def test_a_rule_begins_at_the_moment_of_the_decision_and_not_today() -> None:
    dated = make_set(make_policy([make_rule(atMost=0.04, effectiveFrom=NOW), make_rule("R-2", REFUSAL)]))
    found = replay([past(age_days=1), past()], LOOSE, dated)
    assert [one.outcome for one in found.results] == [Outcome.SAME, Outcome.DENIED]


def test_waivers_of_then_count() -> None:
    waiver = make_waiver(granted_at=NOW - timedelta(days=1), expires_at=NOW + timedelta(days=1))
    assert replay([past(grants=Grants(waivers=(waiver,)))], LOOSE, STRICT).results[0].outcome is Outcome.SAME


@pytest.mark.parametrize(
    ("changes", "note"),
    [
        ({"form": None, "evidence": ()}, "its files are not known"),
        ({"rollback": True}, "a rollback"),
    ],
)
def test_what_cannot_be_told_is_counted_with_its_cause(changes: dict[str, Any], note: str) -> None:
    result = replay([past(**changes)], LOOSE, STRICT)
    (one,) = result.of(Outcome.NOT_REPLAYED)
    assert note in one.note and not result.changes
    assert one.to_dict()["note"] == one.note


def test_governance_needs_no_form() -> None:
    """Freed, or governed by none: that is decided without knowing the files."""
    unknown = past(form=None, evidence=(), allowed=False)
    free = make_set(make_policy(), free=("champion",))
    allowing = make_set(make_policy(**match("x")), unmatched="allow")
    denying = make_set(make_policy(**match("x")))
    for other in (free, allowing):
        assert replay([unknown], None, other).results[0].outcome is Outcome.RELEASED
    denied = replay([past()], LOOSE, denying).results[0]
    assert denied.outcome is Outcome.DENIED and denied.causes == ("unmatched",)


def test_the_figure_is_a_whole_document_and_escapes() -> None:
    causes = [("denied", "a <b> & c", 7), ("released", "one R-1", 1)]
    root = ET.fromstring(replay_svg(causes, title="old & new"))  # noqa: S314 - our own text
    texts = [node.text for node in root.iter() if node.text]
    assert "a <b> & c" in texts and "7 denied" in texts and "1 released" in texts
    assert "No past decision turns." in replay_svg([], title="t")
