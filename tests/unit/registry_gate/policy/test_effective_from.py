"""Rules that begin at a date: told until then, denying from then on, and never by looking at another clock."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from policy_builders import (
    HARM,
    NOW,
    REFUSAL,
    make_assessment,
    make_battery,
    make_evidence,
    make_measured,
    make_policy,
    make_rule,
    make_waiver,
    run,
)

from registry_gate.decision import Decision, Verdict
from registry_gate.documents import parse_documents
from registry_gate.policy.lint import lint_policy
from registry_gate.policy.outcomes import stopping_tests

LATER = NOW + timedelta(days=10)
BAD = [make_evidence(make_assessment(make_measured(events=60), make_measured(REFUSAL)))]


def dated(**rule: Any) -> list[dict[str, Any]]:
    return [make_rule("R-1", HARM, **rule), make_rule("R-2", REFUSAL)]


def judged(*, now: Any = NOW, evidence: Any = BAD, **spec: Any) -> Decision:
    return run(evidence, policies=[make_policy(**spec)], now=now)


def test_until_its_date_a_rule_tells_and_from_then_on_it_denies() -> None:
    spec = {"rules": dated(effectiveFrom=LATER)}
    before = judged(**spec)
    assert before.allowed and before.verdict is Verdict.PASS_WITH_NOTES
    told = [reason for reason in before.reasons if reason.staged == "warn"]
    assert told and all(
        reason.message.startswith(f"warning only until {LATER.isoformat()}, would be ") for reason in told
    )
    # What would be denied then holds until then.
    assert before.valid_until == LATER
    assert judged(**spec, now=LATER - timedelta(seconds=1)).allowed
    after = judged(**spec, now=LATER)
    assert not after.allowed and after.verdict is Verdict.FAIL
    assert {reason.code for reason in after.reasons if reason.blocking} == {"ceiling_exceeded", "worse_than_base"}


def test_a_form_that_keeps_the_rule_does_not_end_with_its_date() -> None:
    decision = judged(rules=dated(effectiveFrom=LATER), evidence=[make_evidence()])
    assert decision.allowed and decision.valid_until is not None and decision.valid_until > LATER
    assert not any(reason.staged for reason in decision.reasons)


def test_a_policy_that_begins_later_wants_no_evidence_until_then() -> None:
    decision = judged(effectiveFrom=LATER, evidence=[])
    assert decision.allowed and decision.valid_until == LATER
    assert [reason.staged for reason in decision.reasons] == ["warn"]
    assert not judged(effectiveFrom=LATER, evidence=[], now=LATER).allowed


def test_the_date_of_a_rule_goes_before_that_of_its_policy() -> None:
    spec: dict[str, Any] = {"effectiveFrom": LATER, "rules": dated(effectiveFrom=NOW - timedelta(days=1))}
    decision = judged(**spec)
    assert not decision.allowed
    assert {reason.rule for reason in decision.reasons if reason.blocking} == {"R-1"}


@pytest.mark.parametrize("enforcement", ["warn", "dryrun"])
def test_a_date_makes_nothing_deny_that_never_would(enforcement: str) -> None:
    rules = [*dated(enforcement=enforcement, effectiveFrom=LATER)]
    for now in (NOW, LATER):
        decision = judged(rules=rules, now=now)
        assert decision.allowed
        assert {reason.staged for reason in decision.reasons if reason.rule == "R-1"} - {None} == {enforcement}
    assert judged(rules=rules).valid_until != LATER


def test_a_policy_without_dates_keeps_its_digest_and_one_with_them_has_another() -> None:
    assert make_policy(rules=dated()).digest != make_policy(rules=dated(effectiveFrom=LATER)).digest
    assert "effectiveFrom" not in str(make_policy().spec.model_dump(by_alias=True, exclude_none=True))
    dated_policy = make_policy(rules=dated(effectiveFrom=LATER))
    decision = run(BAD, policies=[dated_policy])
    assert decision.policies == (("one", dated_policy.digest),)


def test_no_run_stops_early_for_a_rule_that_only_tells() -> None:
    evidence = {"battery": "probe@1", "maxAge": "90d", "signedBy": ("worker",), "stopEarly": True}
    policy = make_policy(rules=dated(effectiveFrom=LATER), evidence=evidence)
    measures = {test.measure for tests in stopping_tests([policy.as_of(NOW)]) for test in tests}
    assert measures == {REFUSAL}
    assert {test.measure for tests in stopping_tests([policy.as_of(LATER)]) for test in tests} == {HARM, REFUSAL}


def test_a_waiver_takes_over_where_the_date_has_come() -> None:
    policies = [make_policy(rules=dated(effectiveFrom=LATER))]
    waiver = make_waiver(expires_at=LATER + timedelta(days=1))
    early = run(BAD, policies=policies, waivers=[waiver])
    assert early.waivers == () and early.valid_until == LATER
    assert run(BAD, policies=policies, waivers=[waiver], now=LATER).waivers == ("w1",)


def test_lint_tells_of_a_date_at_which_nothing_begins() -> None:
    (raw,) = parse_documents(b"kind: X\n", "p.yaml")
    for rule, told in ((dated(enforcement="warn", effectiveFrom=LATER), True), (dated(effectiveFrom=LATER), False)):
        policy = make_policy(rules=rule, waivers=None)
        codes = [problem.code for problem in lint_policy(policy, raw, {"probe@1": make_battery()}, ["worker"])]
        assert ("date_without_effect" in codes) is told
