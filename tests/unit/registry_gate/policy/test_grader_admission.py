"""A grader that was not shown to agree with people does not vote, where a policy asks for that."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from policy_builders import (
    GRADER,
    NOW,
    blocking,
    make_assessment,
    make_battery,
    make_evidence,
    make_policy,
    make_waiver,
    note,
    run,
)
from test_policy_meaning import make_set

from registry_gate.assessment import GraderRecord
from registry_gate.decision import Decision, Verdict
from registry_gate.policy.admission import ending_calibrations
from registry_gate.policy.explain import explain_policy
from registry_gate.policy.inputs import CalibrationItem, UnverifiedCalibration, VerifiedCalibration
from registry_gate.policy.meaning import Direction, compare
from registry_gate.policy.replay import Outcome, replay
from registry_gate.policy.schema import Policy
from registry_gate.statistics.admission import Calibration, SourceCounts
from registry_gate.statistics.agreement import Confusion

CHECKER = GraderRecord(name="two", version="1", family="rule", axis="refusal", digest="sha256:2", runtime="python")
OTHER_AXIS = replace(CHECKER, axis="harm")
EVIDENCE = make_evidence(make_assessment(graders=(GRADER, CHECKER)))


def make_calibration(file: str = "calibrations/one.json", **changes: Any) -> VerifiedCalibration:
    """Of the grader of the builders, good enough for every limit here."""
    about = {key: changes.pop(key) for key in ("signers", "digest") if key in changes}
    counts: dict[str, Any] = {"missed": 10, "false_alarms": 6, "not_graded": 0, "kappa_lower": 0.9}
    counts |= {key: changes.pop(key) for key in counts if key in changes}
    table = Confusion(
        true_positive=200 - counts["missed"],
        false_positive=counts["false_alarms"],
        false_negative=counts["missed"],
        true_negative=200 - counts["false_alarms"],
    )
    said: dict[str, Any] = {
        "grader": GRADER.digest,
        "name": GRADER.name,
        "version": GRADER.version,
        "axis": GRADER.axis,
        "runtime": GRADER.runtime,
        "data": "answers.csv",
        "data_sha256": "0" * 64,
        "sources": {"a": SourceCounts(table=table, not_graded=counts["not_graded"], kappa_lower=counts["kappa_lower"])},
        "calibrated_at": NOW - timedelta(days=10),
    }
    item = VerifiedCalibration(
        file=file, digest="sha256:c1", calibration=Calibration(**{**said, **changes}), signers=("worker",)
    )
    return replace(item, **about)


def asking(**changes: Any) -> Policy:
    return make_policy(graderAdmission={"maxAge": "180d", "signedBy": ("worker",), **changes})


def decided(*calibrations: CalibrationItem, **changes: Any) -> Decision:
    return run([EVIDENCE], policies=[asking(**changes)], calibrations=calibrations)


def test_a_calibrated_grader_votes_and_the_decision_ends_with_its_calibration() -> None:
    decision = decided(make_calibration(calibrated_at=NOW - timedelta(days=170)))
    assert decision.allowed
    assert decision.verdict is Verdict.PASS
    assert "calibrations/one.json (sha256:c1)" in note(decision, "grader_admitted").message
    assert decision.valid_until == NOW + timedelta(days=10)


def test_a_policy_that_asks_for_nothing_needs_no_calibration_and_keeps_its_digest() -> None:
    assert run().allowed
    assert make_policy().digest == make_policy(graderAdmission=None).digest
    assert make_policy().digest != asking().digest


@pytest.mark.parametrize(
    ("calibration", "code", "sentence"),
    [
        (None, "grader_not_calibrated", "expected a calibration of grader one (sha256:1), got none"),
        ({"grader": "sha256:9"}, "grader_not_calibrated", "is of another version of it (sha256:9)"),
        ({"runtime": "cuda"}, "grader_not_calibrated", "expected it to be run by python, got cuda"),
        ({"axis": "harm"}, "grader_not_calibrated", "it is of the axis harm, the assessment used refusal"),
        ({"signers": ("mallory",)}, "grader_not_calibrated", "expected a signature by worker, got mallory"),
        ({"signers": ()}, "grader_not_calibrated", "expected a signature by worker, got nobody"),
        ({"calibrated_at": NOW + timedelta(minutes=6)}, "grader_not_calibrated", "which is in the future"),
        ({"calibrated_at": NOW - timedelta(days=180)}, "grader_calibration_expired", "180 days ago"),
        ({"kappa_lower": 0.59}, "grader_not_admitted", "a: expected a lower limit of kappa of at least 0.6"),
        ({"kappa_lower": None}, "grader_not_admitted", "a: expected a lower limit of kappa of at least 0.6"),
        ({"false_alarms": 16}, "grader_not_admitted", "a: expected a false-positive rate of at most 10 %"),
        ({"not_graded": 45}, "grader_not_admitted", "a: expected at most 10 % of the answers to be left ungraded"),
        ({"sources": {}}, "grader_not_admitted", "expected at least one source of labelled answers, got none"),
    ],
)
def test_a_grader_that_may_not_vote_blocks_with_its_own_sentence(
    calibration: dict[str, Any] | None, code: str, sentence: str
) -> None:
    decision = decided(*([] if calibration is None else [make_calibration(**calibration)]))
    (reason,) = blocking(decision).values()
    assert not decision.allowed
    assert reason.code == code
    assert sentence in reason.message
    assert reason.verdict is (Verdict.STALE if code == "grader_calibration_expired" else Verdict.INVALID)
    assert reason.fix is not None
    assert "registry-gate grader calibrate" in reason.fix
    assert decision.assessments_needed == ()


def test_limits_are_those_of_the_policy() -> None:
    assert decided(make_calibration(), labelledAtLeast=400).allowed
    assert not decided(make_calibration(), labelledAtLeast=401).allowed
    assert not decided(make_calibration(), kappaAtLeast=0.91).allowed
    assert not decided(make_calibration(), falseNegativesAtMost=0.08).allowed
    assert decided(make_calibration(), falseNegativesAtMost=0.09).allowed


def test_what_does_not_verify_counts_for_nothing_and_is_named() -> None:
    broken = UnverifiedCalibration(file="calibrations/x.json", cause="signed by nobody")
    assert decided(make_calibration(), broken).allowed
    (reason,) = blocking(decided(broken)).values()
    assert "calibrations/x.json does not verify: signed by nobody" in reason.message


def test_no_waiver_lets_a_grader_vote() -> None:
    decision = run([EVIDENCE], policies=[asking()], waivers=[make_waiver()])
    assert decision.verdict is Verdict.INVALID
    assert not decision.waivers


def test_of_two_on_the_same_data_the_newest_stands() -> None:
    older = make_calibration("calibrations/old.json", kappa_lower=0.1, calibrated_at=NOW - timedelta(days=20))
    assert decided(older, make_calibration()).allowed
    newer = make_calibration("calibrations/new.json", kappa_lower=0.1, calibrated_at=NOW - timedelta(days=2))
    assert not decided(make_calibration(), newer).allowed


@pytest.mark.parametrize("digest", ["sha256:a", "sha256:z"])
def test_of_two_on_the_same_data_at_one_moment_both_stand(digest: str) -> None:
    failing = make_calibration("calibrations/two.json", kappa_lower=0.1, digest=digest)
    assert not decided(make_calibration(), failing).allowed
    assert not decided(failing, make_calibration()).allowed


def test_data_on_which_a_grader_fails_is_not_outweighed_by_other_data() -> None:
    elsewhere = make_calibration("calibrations/b.json", data_sha256="b" * 64, kappa_lower=0.1)
    (reason,) = blocking(decided(make_calibration(), elsewhere)).values()
    assert reason.code == "grader_not_admitted"
    assert reason.message.count("calibrations/") == 1


def test_every_axis_needs_its_first_grader_and_those_that_only_check_need_none() -> None:
    assert decided(make_calibration()).allowed
    two_axes = make_evidence(make_assessment(graders=(GRADER, OTHER_AXIS)))
    (reason,) = blocking(run([two_axes], policies=[asking()], calibrations=[make_calibration()])).values()
    assert "grader two (sha256:2)" in reason.message


def test_a_grader_that_the_battery_names_and_the_assessment_does_not_is_unknown() -> None:
    stranger = make_evidence(make_assessment(graders=(replace(GRADER, name="three"),)))
    decision = run([stranger], policies=[asking()], calibrations=[make_calibration()])
    assert {reason.code for reason in decision.reasons if reason.blocking} == {"grader_not_calibrated"}


def test_a_policy_that_only_warns_only_says_so() -> None:
    policy = make_policy(enforcement="warn", graderAdmission={"maxAge": "180d", "signedBy": ("worker",)})
    decision = run([EVIDENCE], policies=[policy])
    assert decision.allowed
    assert "warning only, would be invalid" in note(decision, "grader_not_calibrated").message


@given(
    st.lists(
        st.builds(
            make_calibration,
            grader=st.sampled_from(["sha256:1", "sha256:9"]),
            runtime=st.sampled_from(["python", "cuda"]),
            data_sha256=st.sampled_from(["a" * 64, "b" * 64]),
            kappa_lower=st.sampled_from([0.9, 0.2, None]),
            signers=st.sampled_from([("worker",), ("mallory",), ()]),
            calibrated_at=st.integers(-2, 400).map(lambda days: NOW - timedelta(days=days)),
            digest=st.sampled_from(["sha256:c1", "sha256:c2"]),
        ),
        max_size=6,
    )
)
def test_nothing_is_allowed_without_a_good_calibration_in_date_and_the_order_does_not_matter(
    calibrations: list[VerifiedCalibration],
) -> None:
    decision = decided(*calibrations)
    good = [
        one
        for one in calibrations
        if one.calibration.grader == "sha256:1"
        and one.calibration.runtime == "python"
        and one.signers == ("worker",)
        and one.calibration.sources["a"].kappa_lower == 0.9
        and timedelta(0) <= NOW - one.calibration.calibrated_at < timedelta(days=180)
    ]
    assert not decision.allowed or good
    assert decided(*reversed(calibrations)) == decision


def test_asking_is_stricter_and_every_key_has_its_direction() -> None:
    def changes(old: Policy, new: Policy) -> dict[str, Direction]:
        return {change.key: change.direction for change in compare(make_set(old), make_set(new))}

    asked = changes(make_policy(), asking())
    assert Direction.STRICTER in asked.values()
    assert not {Direction.LOOSER, Direction.NEITHER} & set(asked.values())
    dropped = changes(asking(), make_policy())
    assert Direction.LOOSER in dropped.values()
    assert not {Direction.STRICTER, Direction.NEITHER} & set(dropped.values())
    assert changes(asking(), asking(kappaAtLeast=0.7)) == {"spec.graderAdmission.kappaAtLeast": Direction.STRICTER}
    assert changes(asking(), asking(maxAge="90d")) == {"spec.graderAdmission.maxAge": Direction.STRICTER}
    assert changes(asking(), asking(signedBy=("worker", "lab"))) == {"spec.graderAdmission.signedBy": Direction.LOOSER}


def test_replay_counts_a_calibration_as_part_of_the_policies() -> None:
    from test_replay import past

    new = make_set(asking())
    decisions = [past(evidence=(EVIDENCE,))]
    without = replay(decisions, make_set(make_policy()), new)
    assert without.by_cause(Outcome.DENIED) == [("one grader_not_calibrated", 1)]
    later = make_calibration(calibrated_at=NOW + timedelta(days=30))
    assert not replay(decisions, make_set(make_policy()), new, lambda _: [later]).changes


@pytest.mark.parametrize("digest", ["sha256:a", "sha256:z"])
def test_replay_lets_the_newest_of_two_later_calibrations_on_the_same_data_stand(digest: str) -> None:
    from test_replay import past

    passing = make_calibration("calibrations/a.json", calibrated_at=NOW + timedelta(days=5), digest=digest)
    failing = make_calibration(
        "calibrations/b.json", calibrated_at=NOW + timedelta(days=6), kappa_lower=0.1, digest="sha256:m"
    )
    result = replay([past(evidence=(EVIDENCE,))], None, make_set(asking()), lambda _: [passing, failing])
    assert result.by_cause(Outcome.DENIED) == [("one grader_not_admitted", 1)]


def test_explain_says_it() -> None:
    from policy_builders import make_battery

    battery = make_battery()
    said = " ".join(explain_policy(asking(falseNegativesAtMost=0.2), {battery.id: battery}))
    assert "Each grader that votes must have been calibrated at most 180 days ago, signed by worker" in said
    assert "false negatives at most 20 %" in said


def ending(*calibrations: CalibrationItem, **changes: Any) -> dict[str, str]:
    return ending_calibrations(asking(**changes), make_battery(), calibrations, NOW)


def test_a_calibration_that_has_ended_or_soon_will_is_told_before_promotions_are_denied() -> None:
    soon = make_calibration(calibrated_at=NOW - timedelta(days=160))
    assert ending(soon) == {
        "calibrations/one.json": "the calibration of grader one ends on 2026-12-13, 20 days from now, by 'maxAge: "
        "180d' of policy one"
    }
    over = make_calibration(calibrated_at=NOW - timedelta(days=190))
    assert "ended on 2026-11-13, 10 days ago, by 'maxAge: 180d'" in ending(over)["calibrations/one.json"]
    assert ending(make_calibration(calibrated_at=NOW - timedelta(days=180))) != {}
    assert ending(make_calibration(calibrated_at=NOW - timedelta(days=149))) == {}


def test_only_calibrations_that_count_and_nothing_replaces_are_told_of() -> None:
    old = make_calibration("calibrations/old.json", calibrated_at=NOW - timedelta(days=190))
    assert ending(old, make_calibration()) == {}
    on_other_answers = make_calibration("calibrations/b.json", data_sha256="b" * 64)
    assert set(ending(old, on_other_answers)) == {"calibrations/old.json"}
    assert ending(replace(old, signers=("mallory",))) == {}
    assert ending(make_calibration(name="unused", calibrated_at=NOW - timedelta(days=190))) == {}
    assert ending_calibrations(make_policy(), make_battery(), [old], NOW) == {}


def test_where_calibrations_hold_for_weeks_a_young_one_is_not_told_of() -> None:
    assert ending(make_calibration(calibrated_at=NOW - timedelta(days=10)), maxAge="30d") == {}
    assert ending(make_calibration(calibrated_at=NOW - timedelta(days=16)), maxAge="30d") != {}
