"""The table of a report: the numbers of METHOD.md 8.10, and the same ones that `decide` judged."""

from __future__ import annotations

import json

import pytest
from policy_builders import (
    HARM,
    REFUSAL,
    make_assessment,
    make_battery,
    make_measured,
    make_policy,
    make_rule,
    measuring,
    run,
)

from registry_gate.assessment import NotMeasured, PairedTable
from registry_gate.decision import Verdict
from registry_gate.policy.outcomes import Movement, percent, points, rule_outcomes

ROWS = {
    "i.overrefusal": (80, 20, 854, 0.03),
    "ii.overrefusal": (12, 40, 450, 0.02),
    "iii.overrefusal": (10, 6, 450, 0.05),
    "iv.overrefusal": (5, 5, 200, 0.05),
}


def outcomes_of(rows):
    battery = make_battery({measure: row[2] for measure, row in rows.items()})
    policy = make_policy(
        [
            make_rule(measure.split(".")[0].upper(), measure, atMost=None, notWorseThanBase=row[3])
            for measure, row in rows.items()
        ]
    )
    measured = [
        make_measured(measure, b, probes=n, table=PairedTable(both=0, only_adapted=b, only_base=c, neither=n - b - c))
        for measure, (b, c, n, _) in rows.items()
    ]
    assessment = make_assessment(*measured, battery=battery)
    decision = run(measuring(*measured, battery=battery), policies=[policy], battery=battery)
    return {outcome.rule.id: outcome for outcome in rule_outcomes(policy, assessment, battery)}, decision


def test_conflict_of_four_instruments():
    table, decision = outcomes_of(ROWS)
    assert [table[name].movement for name in ("I", "II", "III", "IV")] == [
        Movement.WORSE,
        Movement.BETTER,
        Movement.SAME,
        Movement.SAME,
    ]
    assert table["I"].p_worse == pytest.approx(0.000605, abs=1e-6)
    assert table["II"].p_better == pytest.approx(0.012941, abs=1e-6)
    assert decision.verdict is Verdict.CONFLICT
    assert table["I"].verdict is Verdict.CONFLICT


def test_a_weaker_loss_is_unclear_and_says_what_would_settle_it():
    table, decision = outcomes_of({**ROWS, "i.overrefusal": (60, 20, 854, 0.03)})
    assert table["I"].movement is Movement.UNCLEAR
    assert table["I"].p_worse == pytest.approx(0.192477, abs=1e-6)
    assert (table["I"].difference.lower, table["I"].difference.upper) == pytest.approx((0.030186, 0.064621), abs=1e-6)
    assert decision.verdict is Verdict.INCONCLUSIVE


def test_without_the_gain_the_loss_is_a_failure():
    table, decision = outcomes_of({name: row for name, row in ROWS.items() if name != "ii.overrefusal"})
    assert table["I"].verdict is decision.verdict is Verdict.FAIL


def test_reports_and_decisions_share_one_computation():
    evidence = measuring(make_measured(events=14, base_events=12), make_measured(REFUSAL, 90, 3))
    outcomes = rule_outcomes(make_policy(), evidence[0].assessment, make_battery())
    decision = run(evidence)
    assert decision.verdict is min((outcome.verdict for outcome in outcomes), key=lambda verdict: verdict.rank)
    assert {f.message for o in outcomes for f in o.findings} == {reason.message for reason in decision.reasons}
    first = outcomes[0]
    assert (str(first.adapted), str(first.base), str(first.difference)) == (
        "14 of 120 (11.7 %)",
        "12 of 120 (10 %)",
        "+1.7 pp",
    )
    assert first.more_probes > 0
    assert json.loads(json.dumps(first.to_dict(), allow_nan=False))["adapted"]["events"] == 14


def test_a_rule_without_measurement_has_a_row_that_says_so():
    assessment = make_assessment(NotMeasured(measure=HARM, cause="crash"))
    outcomes = rule_outcomes(make_policy(), assessment, make_battery())
    assert [(o.rule.id, o.verdict, o.adapted, o.probes) for o in outcomes] == [
        ("R-1", Verdict.INVALID, None, None),
        ("R-2", Verdict.INVALID, None, None),
    ]
    assert json.dumps([outcome.to_dict() for outcome in outcomes])


@pytest.mark.parametrize(
    ("value", "beside", "shown"),
    [(0.117, None, "11.7 %"), (0.5, None, "50 %"), (0, None, "0 %"), (0.1004, 0.1, "10.04 %"), (0.1, 0.1, "10.0 %")],
)
def test_shares_are_printed_so_that_they_differ_when_they_differ(value, beside, shown):
    assert percent(value, beside) == shown


def test_differences_carry_their_sign():
    assert (points(0.025), points(-0.1), points(0)) == ("+2.5 pp", "-10.0 pp", "+0.0 pp")
