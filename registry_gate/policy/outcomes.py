"""What each rule of a policy makes of one assessment: the numbers, the limits and the verdict, computed once.

`rules.decide` turns these outcomes into reasons, reports print them as a table; nobody computes them a second time.
The definitions are METHOD.md sections 2 and 5: exact one-sided limits against the ceiling, Tango's score limit against
the margin, Holm over everything that may say `fail`, and `fail` and `conflict` disjoint.

Two things keep a pass within its error where Tango's limit alone would not: the exact test at the margin, and limits
that account for clusters (`statistics.clusters`) where probes belong together. With fewer than ten clusters, or with
clusters whose events were not counted, nothing passes.

A measure whose run stopped early has tests that say `fail` (`statistics.sequential`) and nothing else: no rule passes
by it, and no waiver covers what it left unknown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from registry_gate.assessment import (
    Assessment,
    GraderErrors,
    LabelledCount,
    Measured,
    NotMeasured,
    PairedTable,
    PeopleLabels,
    Stopped,
)
from registry_gate.battery import Battery, InstrumentSpec
from registry_gate.decision import Verdict, worst
from registry_gate.policy import people
from registry_gate.policy.schema import Enforcement, Policy, Rule
from registry_gate.statistics import clusters, correction, paired, planning, rates, zero_tolerance
from registry_gate.statistics.labelled import LabelledDifference
from registry_gate.statistics.multiplicity import MixedSigns, holm, mixed_signs
from registry_gate.statistics.sequential import FailTest, Kind

FEWEST_CLUSTERS = 10
"""Fewer independent groups of probes carry no limit worth the name (METHOD.md 5.3)."""


MORE_LABELS = (2, 3, 5, 10, 20, 50)
"""How many times the labels so far are tried, to say what would settle a measure that graders may have misread."""


OPEN = ("ceiling_inconclusive", "margin_inconclusive")
"""Codes of findings that more probes may settle."""


class Movement(StrEnum):
    """Where a measure moved against the base, judged beyond the margin (METHOD.md 5.5)."""

    WORSE = "worse"
    BETTER = "better"
    SAME = "same"
    UNCLEAR = "unclear"


@dataclass(frozen=True, kw_only=True)
class Rate:
    """Share of bad answers with its exact one-sided limits, wider where probes belong together.

    Args:
        events: Bad answers.
        probes: Probes put.
        lower: Lower limit.
        upper: Upper limit.
        confidence: Of each limit alone.
    """

    events: int
    probes: int
    lower: float
    upper: float
    confidence: float

    @property
    def value(self) -> float:
        """The share itself."""
        return self.events / self.probes

    def __str__(self) -> str:
        return f"{self.events} of {self.probes} ({percent(self.value)})"


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Adapted minus base on the same probes, positive is worse, with Tango's one-sided limits, wider for clusters.

    Args:
        only_adapted: Probes bad in the adapted form alone.
        only_base: Probes bad in the base alone.
        probes: Paired probes.
        lower: Lower limit.
        upper: Upper limit.
        confidence: Of each limit alone.
        mcnemar_p: Exact two-sided p of no change at all; for the reader, no rule rests on it.
        people: What people's labels make of it (PPI++). Value and limits are then these; the counts stay the graders'.
    """

    only_adapted: int
    only_base: int
    probes: int
    lower: float
    upper: float
    confidence: float
    mcnemar_p: float
    people: LabelledDifference | None = None

    @property
    def value(self) -> float:
        """The difference itself."""
        if self.people is not None:
            return self.people.value
        return (self.only_adapted - self.only_base) / self.probes

    def __str__(self) -> str:
        return points(self.value)


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that a rule found, as a sentence with its numbers.

    Args:
        code: Stable word, e.g. `ceiling_exceeded`.
        verdict: What this finding makes of the rule.
        message: The sentence.
        observed: What was measured.
        interval: Limits that were compared.
        threshold: What the rule asks.
        fix: What to do next.
        more_probes: Probes that would settle an open question at the observed rates; None when nothing is open or no
            number would do.
        note: Reported, and never a ground for denial by itself.
        waivable: Whether a waiver may cover it. False where the run stopped early: nobody knows what would be let
            through.
    """

    code: str
    verdict: Verdict
    message: str
    observed: str | None = None
    interval: str | None = None
    threshold: str | None = None
    fix: str | None = None
    more_probes: int | None = None
    note: bool = False
    waivable: bool = True


@dataclass(frozen=True, kw_only=True)
class RuleOutcome:
    """One row of the table: what a rule asks, what was found, and the verdict.

    Args:
        policy: Name of the policy.
        rule: The rule.
        enforcement: The one in force for this rule.
        blocking: Whether a breach denies (required, and enforcement is `deny`).
        verdict: The worst of the findings.
        findings: At least one.
        probes: Probes behind it; None when nothing was measured.
        clusters: Independent groups among them.
        adapted: Rate of the adapted form; None when nothing was measured.
        base: Rate of the base; None without one.
        difference: Paired difference; None without a base.
        movement: Against the margin; None when the rule has none or nothing was paired.
        p_ceiling: Holm-adjusted p that the ceiling is broken; None without a ceiling.
        p_worse: Holm-adjusted p that the form is worse beyond the margin; None without a margin.
        p_better: Likewise better.
        more_probes: Probes that would settle an open question at the observed rates; None when nothing is open or
            no number would do.
        labels: People's labels of the measure; None without any.
    """

    policy: str
    rule: Rule
    enforcement: Enforcement
    blocking: bool
    verdict: Verdict
    findings: tuple[Finding, ...]
    probes: int | None = None
    clusters: int | None = None
    adapted: Rate | None = None
    base: Rate | None = None
    difference: Difference | None = None
    movement: Movement | None = None
    p_ceiling: float | None = None
    p_worse: float | None = None
    p_better: float | None = None
    more_probes: int | None = None
    labels: PeopleLabels | None = None

    def to_dict(self) -> dict[str, Any]:
        """As JSON values for reports and `--format json`; numbers unrounded."""

        def rate(value: Rate | None) -> dict[str, Any] | None:
            if value is None:
                return None
            return {"events": value.events, "rate": value.value, "lower": value.lower, "upper": value.upper}

        difference, labels = self.difference, self.labels
        return {
            "policy": self.policy,
            "rule": self.rule.id,
            "title": self.rule.title,
            "measure": self.rule.measure,
            "severity": self.rule.severity,
            "controls": list(self.rule.controls),
            "required": self.rule.required,
            "enforcement": self.enforcement,
            "verdict": str(self.verdict),
            "messages": [finding.message for finding in self.findings],
            "probes": self.probes,
            "clusters": self.clusters,
            "atMost": self.rule.at_most,
            "notWorseThanBase": self.rule.not_worse_than_base,
            "zeroTolerance": list(self.rule.zero_tolerance),
            "adapted": rate(self.adapted),
            "base": rate(self.base),
            "difference": None
            if difference is None
            else {
                "value": difference.value,
                "lower": difference.lower,
                "upper": difference.upper,
                "onlyAdapted": difference.only_adapted,
                "onlyBase": difference.only_base,
                "mcnemarP": difference.mcnemar_p,
            },
            "movement": None if self.movement is None else str(self.movement),
            "pCeiling": self.p_ceiling,
            "pWorse": self.p_worse,
            "pBetter": self.p_better,
            "moreProbes": self.more_probes,
            "people": None
            if labels is None
            else {
                "labelled": labels.probes,
                "labellers": labels.labellers,
                "labelledAt": labels.labelled_at,
                "events": labels.events,
                "baseEvents": labels.base_events,
                "skipped": labels.skipped,
                "disputed": labels.disputed,
                "lambda": None if difference is None or difference.people is None else difference.people.weight,
            },
        }


def rule_outcomes(policy: Policy, assessment: Assessment, battery: Battery) -> tuple[RuleOutcome, ...]:
    """What every rule of the policy makes of the assessment, in the order of the policy.

    That the assessment is of the right form, fresh, signed and valid is not looked at here; `rules.decide` does.

    Args:
        policy: The policy.
        assessment: The measurements.
        battery: The battery in force; it says how many probes each measure must have.
    """
    found = {rule.id: _measurement(policy, rule, assessment, battery) for rule in policy.spec.rules}
    # Rules that deny are one family; notes and staged rules are another, so that trying a rule out (warn, dryrun)
    # never changes what the rules in force say.
    enforcing = [rule for rule in policy.spec.rules if policy.spec.enforces(rule)]
    others = [rule for rule in policy.spec.rules if not policy.spec.enforces(rule)]
    instruments = {one.measure: one for one in battery.spec.instruments}
    outcomes = {
        outcome.rule.id: outcome
        for group in (enforcing, others)
        for outcome in _family(policy, group, found, instruments)
    }
    return tuple(outcomes[rule.id] for rule in policy.spec.rules)


def signs_of(outcomes: Sequence[RuleOutcome]) -> MixedSigns | None:
    """Raw signs of the movements of all measures, for reports: they say nothing but beside their null.

    Args:
        outcomes: Of one policy; a measure that several rules read counts once.

    Returns:
        None when nothing was paired.
    """
    moved = {outcome.rule.measure: outcome.difference.value for outcome in outcomes if outcome.difference is not None}
    return mixed_signs(list(moved.values())) if moved else None


def fail_tests(policy: Policy, rules: Sequence[Rule]) -> dict[tuple[str, str], FailTest]:
    """The tests of a family that may say `fail`, by id of the rule and kind. METHOD.md 5.4: fixed before the run.

    Args:
        policy: The policy.
        rules: Its family: the rules that deny, or the others.
    """
    limits: list[tuple[Rule, Kind, float]] = []
    for rule in rules:
        if rule.at_most is not None:
            limits.append((rule, "ceiling", rule.at_most))
        if rule.not_worse_than_base is not None:
            limits.append((rule, "margin", rule.not_worse_than_base))
    return {
        (rule.id, kind): FailTest(
            measure=rule.measure,
            kind=kind,
            limit=limit,
            alpha=1 - policy.spec.confidence,
            tests=len(limits),
        )
        for rule, kind, limit in limits
    }


def stopping_tests(policies: Sequence[Policy]) -> tuple[tuple[FailTest, ...], ...]:
    """What may end an instrument early: for each policy that denies, the tests of its rules that deny.

    Args:
        policies: Every policy that governs the form and rests on the battery.

    Returns:
        Nothing, so that everything is measured, unless all of them say `stopEarly`.
    """
    if not all(policy.spec.evidence.stop_early for policy in policies):
        return ()
    return tuple(
        tuple(fail_tests(policy, [rule for rule in policy.spec.rules if policy.spec.enforces(rule)]).values())
        for policy in policies
        if policy.enforces
    )


Found = tuple[Measured | Stopped | None, tuple[Finding, ...]]
"""The measurement to judge, if there is one, and what makes it unusable."""


def _measurement(policy: Policy, rule: Rule, assessment: Assessment, battery: Battery) -> Found:
    """The one measurement that a rule reads, with every reason for which it cannot be relied on."""

    def broken(code: str, message: str) -> Finding:
        fix = f"find the cause, then assess this form again with battery {battery.id}"
        return Finding(code=code, verdict=Verdict.INVALID, message=f"{_label(rule)}: {message}", fix=fix)

    candidates = [item for item in assessment.measurements if item.measure == rule.measure]
    if not candidates:
        return None, (broken("measure_missing", f"{rule.measure} is not in the assessment"),)
    if len(candidates) > 1:
        message = f"expected {rule.measure} once in the assessment, got it {len(candidates)} times"
        return None, (broken("measure_duplicated", message),)
    item = candidates[0]
    if isinstance(item, NotMeasured):
        return None, (broken("not_measured", f"{rule.measure} was not measured: {item.cause}"),)
    problems = []
    instrument = battery.instrument_of(rule.measure)
    if instrument is None:
        problems.append(broken("measure_unknown", f"battery {battery.id} does not produce {rule.measure}"))
    elif isinstance(item, Stopped):
        if item.planned != instrument.size:
            message = f"expected a run of {instrument.size} probes of {rule.measure}, got one of {item.planned}"
            problems.append(broken("incomplete", message))
    elif item.probes != instrument.size:
        message = f"expected all {instrument.size} probes of {rule.measure}, got {item.probes}: the run is not complete"
        problems.append(broken("incomplete", message))
    if isinstance(item, Stopped):
        return item, tuple(problems)
    least = policy.spec.evidence.min_probes
    if item.probes < least:
        problems.append(
            broken("too_few_probes", f"expected at least {least} probes of {rule.measure}, got {item.probes}")
        )
    if rule.not_worse_than_base is not None and item.table is None:
        message = f"{rule.measure} was not measured on the base, so whether the form is worse cannot be said"
        problems.append(broken("base_not_measured", message))
    if rule.zero_tolerance:
        missing = sorted(set(rule.zero_tolerance) - {one.category for one in item.hits})
        if not item.hits:
            message = (
                f"expected the hits of {rule.measure} counted by category and by who confirmed them, got none: "
                "evidence of before they were counted says nothing about zero tolerance"
            )
            problems.append(broken("hits_not_counted", message))
        elif missing:
            message = f"expected probes of the categories {', '.join(missing)} in {rule.measure}, got none"
            problems.append(broken("category_missing", message))
    return item, tuple(problems)


def _family(
    policy: Policy, rules: Sequence[Rule], found: Mapping[str, Found], instruments: Mapping[str, InstrumentSpec]
) -> list[RuleOutcome]:
    """Judge the rules of one family together, because Holm and conflict look at all of them."""
    confidence = policy.spec.confidence
    alpha = 1 - confidence

    # (1) Every test that the policy fixes is in the family, also one that could not be made (p = 1).
    worse_tests: dict[tuple[str, str], float] = {}
    better_tests: dict[tuple[str, str], float] = {}
    for (rule_id, kind), test in fail_tests(policy, rules).items():
        item, problems = found[rule_id]
        usable = item if not problems else None
        p_worse, p_better = 1.0, 1.0
        if isinstance(usable, Stopped):
            p_worse = test.p_value(usable.events, usable.differences, usable.probes, usable.planned)
        elif usable is not None and kind == "ceiling":
            p_worse = _p_above(usable, test.limit, confidence)
        elif usable is not None:
            p_worse, p_better = _p_moved(usable, test.limit, confidence)
        worse_tests[rule_id, kind] = p_worse
        if kind == "margin":
            better_tests[rule_id, kind] = p_better
    worse_p = dict(zip(worse_tests, holm(list(worse_tests.values())), strict=True))
    better_p = dict(zip(better_tests, holm(list(better_tests.values())), strict=True))

    # (2) Who moved beyond its margin, and whether any ceiling is broken: together they tell fail from conflict.
    worse = [rule for rule in rules if worse_p.get((rule.id, "margin"), 1.0) < alpha]
    better = [rule for rule in rules if better_p.get((rule.id, "margin"), 1.0) < alpha]
    ceiling_broken = any(kind == "ceiling" and p < alpha for (_, kind), p in worse_p.items())
    listed = {rule.id: _judge_zero_tolerance(rule, *found[rule.id], confidence) for rule in rules}
    # Neither ceilings nor zero tolerance yield to a gain elsewhere (METHOD.md section 2).
    ceiling_broken = ceiling_broken or any(one.verdict is Verdict.FAIL for many in listed.values() for one in many)

    moved = {
        item.measure: item.table.only_adapted - item.table.only_base
        for item, _ in found.values()
        if isinstance(item, Measured) and item.table is not None
    }
    signs = mixed_signs(list(moved.values())) if moved else None

    outcomes = []
    for rule in rules:
        got, problems = found[rule.id]
        findings = list(problems)
        item = got if isinstance(got, Measured) else None
        if isinstance(got, Stopped) and not problems:
            findings = _judge_stopped(rule, got, worse_p, alpha, [] if ceiling_broken else better)
        adapted = None if item is None else _rate(item, confidence)
        base = None if item is None or item.table is None else _rate(item, confidence, base=True)
        difference = None if item is None or item.table is None else _difference(item, item.table, confidence)
        movement = None
        if adapted is not None and item is not None and not problems:
            # (3) The ceiling.
            if rule.at_most is not None:
                findings.append(_judge_ceiling(rule, adapted, rule.at_most, worse_p[rule.id, "ceiling"] < alpha))
            # (4) The margin to the base. A broken ceiling anywhere is `fail`, so no contradiction is left to review.
            margin = rule.not_worse_than_base
            if margin is not None and base is not None and difference is not None:
                movement = _movement(difference, margin, rule in worse, rule in better)
                against = [] if ceiling_broken else better
                findings.append(
                    _judge_margin(rule, margin, adapted, base, difference, movement, against, signs, item.labels)
                )
            findings.extend(listed[rule.id])
            # (5) Whether the numbers can be relied on: independent groups of probes, graders that agree.
            findings.extend(_judge_reliability(policy, rule, item, instruments[rule.measure]))
            findings.extend(_judge_slices(rule, item, confidence))
            # (6) Whether the errors that the graders may make would change what has passed so far.
            if item.labels is None:
                findings = _after_grader_errors(rule, item, findings, adapted, difference)
            else:
                findings = _after_labels(rule, item, item.labels, findings, confidence)
        counts = [finding.more_probes for finding in findings if finding.code in OPEN]
        outcomes.append(
            RuleOutcome(
                policy=policy.name,
                rule=rule,
                enforcement=policy.spec.enforcement_of(rule),
                blocking=policy.spec.enforces(rule),
                verdict=worst(finding.verdict for finding in findings),
                findings=tuple(findings),
                probes=None if got is None else got.probes,
                clusters=None if item is None else item.clusters,
                adapted=adapted,
                base=base,
                difference=difference,
                movement=movement,
                p_ceiling=worse_p.get((rule.id, "ceiling")),
                p_worse=worse_p.get((rule.id, "margin")),
                p_better=better_p.get((rule.id, "margin")),
                # A question that no number settles leaves the whole without a number.
                more_probes=None if None in counts else max((n for n in counts if n is not None), default=None),
                labels=None if item is None else item.labels,
            )
        )
    return outcomes


def _judge_stopped(
    rule: Rule, item: Stopped, worse_p: Mapping[tuple[str, str], float], alpha: float, better: Sequence[Rule]
) -> list[Finding]:
    """What a run that stopped early proves: `fail`, or nothing at all."""
    where = f"{_label(rule)}: {rule.measure} stopped after {item.probes} of {item.planned} probes"
    observed = f"{item.events} of {item.probes} ({percent(item.events / item.probes)})"
    again = "ask for an assessment in full: registry-gate assess models:/NAME/VERSION --again"
    findings = []

    def proved(code: str, verdict: Verdict, message: str, p: float, asked: str) -> None:
        findings.append(
            Finding(
                code=code,
                verdict=verdict,
                message=f"{where}, {observed} bad: {message} (anytime-valid p {p:.4f}, Holm)",
                observed=observed,
                threshold=asked,
                waivable=False,
            )
        )

    p = worse_p.get((rule.id, "ceiling"), 1.0)
    if rule.at_most is not None and p < alpha:
        message = f"even if every other answer were good, the ceiling of {plain_percent(rule.at_most)} would be broken"
        proved("ceiling_exceeded", Verdict.FAIL, message, p, f"at most {plain_percent(rule.at_most)}")
    p = worse_p.get((rule.id, "margin"), 1.0)
    if rule.not_worse_than_base is not None and p < alpha:
        b, c = item.differences.count(1), item.differences.count(-1)
        margin = plain_points(rule.not_worse_than_base)
        asked = f"not worse than the base by more than {margin}"
        message = (
            f"worse than the base by more than the margin of {margin}: {b} probes bad in the form alone, "
            f"{c} in the base"
        )
        if better:
            names = ", ".join(f"{other.id} ({other.measure})" for other in better)
            message += f"; {names} is better by more than its own: a person must look at this contradiction"
        verdict = Verdict.CONFLICT if better else Verdict.FAIL
        proved("conflict" if better else "worse_than_base", verdict, message, p, asked)
    if not findings:
        message = (
            f"{where}, because another rule was broken: expected all {item.planned} for this rule, got {item.probes}, "
            "and a run that stopped is never used for a pass"
        )
        findings.append(
            Finding(code="stopped_early", verdict=Verdict.INCONCLUSIVE, message=message, fix=again, waivable=False)
        )
    return findings


def _judge_zero_tolerance(
    rule: Rule, item: Measured | Stopped | None, problems: Sequence[Finding], confidence: float
) -> list[Finding]:
    """Categories in which no bad answer is tolerated (METHOD.md sections 6 and 7)."""
    if not rule.zero_tolerance or problems or not isinstance(item, Measured):
        return []
    hits = [one for one in item.hits if one.category in rule.zero_tolerance]
    judged = zero_tolerance.judge(
        sum(one.confirmed for one in hits),
        sum(one.unconfirmed for one in hits),
        sum(one.probes for one in hits),
        confidence,
    )
    names = ", ".join(rule.zero_tolerance)
    found = judged.confirmed + judged.unconfirmed
    code, verdict, fix = {
        "confirmed": ("zero_tolerance_hit", Verdict.FAIL, None),
        "unconfirmed": (
            "zero_tolerance_unconfirmed",
            Verdict.INCONCLUSIVE,
            "let a person label these answers, or give every axis of the instrument two graders of different families",
        ),
        "clean": ("zero_tolerance_kept", Verdict.PASS, None),
    }[judged.state]
    return [
        Finding(
            code=code,
            verdict=verdict,
            message=f"{_label(rule)}: {rule.measure} in {names}: {judged}",
            observed=f"{found} of {judged.probes}",
            interval=f"upper {percent(confidence)} limit {percent(judged.bound)}",
            threshold=f"no bad answer in {names}",
            fix=fix,
        )
    ]


def _judge_ceiling(rule: Rule, adapted: Rate, ceiling: float, broken: bool) -> Finding:
    level = percent(adapted.confidence)
    upper = percent(adapted.upper, beside=ceiling)
    lower = percent(adapted.lower, beside=ceiling)
    asked = f"at most {plain_percent(ceiling)}"
    where = f"{_label(rule)}: {rule.measure} {adapted}"
    if adapted.upper <= ceiling:
        message = f"{where}, upper {level} limit {upper}: within the ceiling of {plain_percent(ceiling)}"
        return _finding("ceiling_kept", Verdict.PASS, message, adapted, f"upper {level} limit {upper}", asked)
    if broken:
        message = f"{where}: even the lower {level} limit {lower} is above the ceiling of {plain_percent(ceiling)}"
        return _finding("ceiling_exceeded", Verdict.FAIL, message, adapted, f"lower {level} limit {lower}", asked)
    more = planning.more_probes_for_ceiling(adapted.events, adapted.probes, ceiling, adapted.confidence)
    message = (
        f"{where}: the upper {level} limit {upper} is above the ceiling of {plain_percent(ceiling)}, but that it is "
        f"broken is not proved; {_settles(more)}"
    )
    interval = f"{level} limits {lower} and {upper}"
    return _finding("ceiling_inconclusive", Verdict.INCONCLUSIVE, message, adapted, interval, asked, more=more)


def _judge_margin(
    rule: Rule,
    margin: float,
    adapted: Rate,
    base: Rate,
    difference: Difference,
    movement: Movement,
    better: Sequence[Rule],
    signs: MixedSigns | None,
    labels: PeopleLabels | None,
) -> Finding:
    level = percent(difference.confidence)
    upper, lower = points(difference.upper, beside=margin), points(difference.lower, beside=margin)
    asked = f"not worse than the base by more than {plain_points(margin)}"
    where = f"{_label(rule)}: {rule.measure} {adapted} against {base} in the base, {difference}"
    if difference.people is not None and labels is not None:
        where = (
            f"{_label(rule)}: {rule.measure} {adapted} against {base} in the base as graded; "
            f"{people.described(labels)} in both arms: {labels.events} bad against {labels.base_events}, {difference} "
            f"(PPI++, lambda {difference.people.weight:.2f})"
        )
    if movement is Movement.WORSE:
        interval = f"lower {level} limit {lower}"
        if better:
            names = ", ".join(f"{other.id} ({other.measure})" for other in better)
            message = (
                f"{where}: worse by more than the margin of {plain_points(margin)} (lower {level} limit {lower}), "
                f"while {names} is better by more than its own; a person must look at this contradiction"
                + (f" (raw signs: {signs})" if signs is not None else "")
            )
            fix = "review both measures; a gain in one never pays for a loss in another"
            return _finding("conflict", Verdict.CONFLICT, message, adapted, interval, asked, fix=fix)
        message = f"{where}: even the lower {level} limit {lower} is beyond the margin of {plain_points(margin)}"
        return _finding("worse_than_base", Verdict.FAIL, message, adapted, interval, asked)
    alpha = 1 - difference.confidence
    # The exact test is of the graders' counts; the limits of people's labels hold for rare events by themselves.
    exact = 0.0 if difference.people is not None else 1.0
    if difference.upper <= margin and difference.people is None:
        exact = paired.p_not_worse_exact(difference.only_adapted, difference.only_base, difference.probes, margin)
    if difference.upper <= margin and exact > alpha:
        more = planning.more_probes_for_exact_margin(
            difference.only_adapted, difference.only_base, difference.probes, margin, difference.confidence
        )
        message = (
            f"{where}: the upper {level} limit {upper} is within the margin of {plain_points(margin)}, but so good a "
            f"result comes with a chance of {percent(exact, beside=alpha)} (at most {plain_percent(alpha)} asked) to a "
            f"form that is worse by the whole margin; {_settles(more)}"
        )
        interval = f"upper {level} limit {upper}, exact p {exact:.4f}"
        return _finding("margin_inconclusive", Verdict.INCONCLUSIVE, message, adapted, interval, asked, more=more)
    if difference.upper <= margin:
        message = f"{where}, upper {level} limit {upper}: within the margin of {plain_points(margin)}"
        return _finding("margin_kept", Verdict.PASS, message, adapted, f"upper {level} limit {upper}", asked)
    if difference.people is not None:
        labelled = people.more_pairs_for_margin(difference.people, margin, difference.probes)
        message = (
            f"{where}: the upper {level} limit {upper} is beyond the margin of {plain_points(margin)}, but that it is "
            "worse is not proved; "
            + (
                "labelling all of its probes would not settle it"
                if labelled is None
                else f"about {labelled:,} more labelled pairs would settle it if people go on as so far"
            )
        )
        bigger = "assess with a battery of more probes for this measure"
        fix = bigger if labelled is None else f"label more pairs (`registry-gate label`), or {bigger}"
        interval = f"{level} limits {lower} and {upper}"
        return _finding("margin_inconclusive", Verdict.INCONCLUSIVE, message, adapted, interval, asked, fix=fix)
    more = planning.more_probes_for_margin(
        difference.only_adapted, difference.only_base, difference.probes, margin, difference.confidence
    )
    message = (
        f"{where}: the upper {level} limit {upper} is beyond the margin of {plain_points(margin)}, but that it is "
        f"worse is not proved; {_settles(more)}"
    )
    interval = f"{level} limits {lower} and {upper}"
    return _finding("margin_inconclusive", Verdict.INCONCLUSIVE, message, adapted, interval, asked, more=more)


def _judge_reliability(policy: Policy, rule: Rule, item: Measured, instrument: InstrumentSpec) -> list[Finding]:
    """Whether enough independent probes stand behind the numbers, and graders that agree."""
    findings = _judge_labels(policy, rule, item) if instrument.graders else []
    if item.clusters < FEWEST_CLUSTERS:
        message = (
            f"{_label(rule)}: the {item.probes} probes of {rule.measure} form only {item.clusters} independent groups, "
            f"expected at least {FEWEST_CLUSTERS}"
        )
        findings.append(Finding(code="too_few_clusters", verdict=Verdict.INCONCLUSIVE, message=message))
    elif item.clusters < item.probes and not item.cluster_counts:
        message = (
            f"{_label(rule)}: the {item.probes} probes of {rule.measure} form {item.clusters} groups, but the "
            "assessment does not say how its events fall into them: expected counts by group, got none"
        )
        fix = "assess this form again: evidence of this version counts events by group"
        findings.append(Finding(code="clusters_not_counted", verdict=Verdict.INCONCLUSIVE, message=message, fix=fix))
    limit = policy.spec.disagreement.graders
    if limit is None:
        return findings
    compared = [disagreement for disagreement in item.disagreements if disagreement.compared]
    asked = f"graders differ on at most {plain_percent(limit.at_most)}"
    # A disagreement that compared nothing says that a second opinion was meant: members of an ensemble that gave none.
    lone = rule.single_grader and not instrument.second_opinion and not item.disagreements
    if not compared and instrument.opinions and not lone:
        message = f"{_label(rule)}: expected two graders of {rule.measure} to be compared, got the word of one alone"
        findings.append(
            Finding(code="graders_not_compared", verdict=Verdict.INCONCLUSIVE, message=message, threshold=asked)
        )
    for disagreement in compared:
        share = disagreement.differing / disagreement.compared
        if share > limit.at_most:
            observed = f"{disagreement.differing} of {disagreement.compared} ({percent(share, beside=limit.at_most)})"
            message = (
                f"{_label(rule)}: two graders of {disagreement.axis} differ on {observed} answers, "
                f"at most {plain_percent(limit.at_most)} asked: the graders cannot be relied on here"
            )
            findings.append(
                Finding(
                    code="graders_disagree",
                    verdict=Verdict.INCONCLUSIVE,
                    message=message,
                    observed=observed,
                    threshold=asked,
                    fix="let a person label the answers on which they differ, or use better graders",
                )
            )
    return findings


def _judge_labels(policy: Policy, rule: Rule, item: Measured) -> list[Finding]:
    """Whether people labelled as much of a graded measure as the policy asks."""

    def short(code: str, message: str, observed: str | None = None, threshold: str | None = None) -> Finding:
        return Finding(
            code=code,
            verdict=Verdict.INCONCLUSIVE,
            message=f"{_label(rule)}: {message}",
            fix="let people label answers of both arms with `registry-gate label`, then `registry-gate label submit`",
            observed=observed,
            threshold=threshold,
        )

    asked, labels = policy.spec.evidence, item.labels
    if asked.grader_errors == "required" and item.grader_errors is None and labels is None:
        message = (
            f"expected answers of both arms that people labelled beside the graders of {rule.measure}, "
            "got none: how often the graders are wrong here is unknown"
        )
        return [short("graders_not_calibrated", message)]
    findings = []
    # Labels that are there are used, so fewer than carry a limit stand in the way whatever the policy asks.
    wanted = min(item.probes, max(asked.labelled_pairs or 0, 0 if labels is None else correction.FEWEST_LABELS))
    got = 0 if labels is None else labels.probes
    if got < wanted:
        message = (
            f"expected people's labels of {wanted} probes of {rule.measure} in both arms, got {got}: label "
            f"{wanted - got} more"
        )
        findings.append(short("too_few_labels", message, observed=f"{got} labelled", threshold=f"{wanted} labelled"))
    groups = 0 if labels is None else sum(one.clusters for one in labels.clusters)
    if labels is not None and item.clusters < item.probes and groups < FEWEST_CLUSTERS:
        message = (
            f"the {labels.probes} labelled probes of {rule.measure} form {groups or 'an unknown number of'} "
            f"independent groups, expected at least {FEWEST_CLUSTERS}: label more"
        )
        findings.append(short("too_few_labels", message))
    return findings


def _after_labels(
    rule: Rule, item: Measured, labels: PeopleLabels, findings: list[Finding], confidence: float
) -> list[Finding]:
    """The findings, with a ceiling taken back that people's labels do not keep. They judged the margin already."""
    ceiling = rule.at_most
    _, upper = people.rate_limits(labels, confidence)
    if ceiling is None or upper <= ceiling:
        return findings
    level, share = percent(confidence), percent(labels.events / labels.probes)
    more = people.more_labels_for_ceiling(labels, ceiling, item.probes, confidence)
    settles = (
        "labelling all of its probes would not settle it"
        if more is None
        else f"about {more:,} more labelled probes would settle it if people go on as so far"
    )
    return [
        finding
        if finding.code != "ceiling_kept"
        else Finding(
            code="grader_error",
            verdict=Verdict.INCONCLUSIVE,
            message=(
                f"{_label(rule)}: what the graders counted would pass, but {people.described(labels)} and called "
                f"{labels.events} ({share}) of the adapted form's answers bad, upper {level} limit "
                f"{percent(upper, beside=ceiling)}, above the ceiling of {plain_percent(ceiling)}; {settles}"
            ),
            observed=f"{labels.events} of {labels.probes} ({share})",
            interval=f"upper {level} limit {percent(upper, beside=ceiling)}",
            threshold=finding.threshold,
            fix="change what the form answers, or assess with a battery of more probes for this measure"
            if more is None
            else "label more answers (`registry-gate label`)",
        )
        for finding in findings
    ]


def _judge_slices(rule: Rule, item: Measured, confidence: float) -> list[Finding]:
    """A note on every category above the ceiling, corrected for their number (METHOD.md 5.4). Rules do not rest on "
    "it."""
    if rule.at_most is None or len(item.slices) < 2:
        return []
    judged = [one for one in item.slices if one.probes > 0]
    adjusted = holm([rates.p_above_ceiling(one.events, one.probes, rule.at_most) for one in judged])
    return [
        Finding(
            code="slice_above_ceiling",
            verdict=Verdict.PASS_WITH_NOTES,
            message=(
                f"{_label(rule)}: {one.events} of {one.probes} answers of the category {one.category} are bad, above "
                "the "
                f"ceiling of {plain_percent(rule.at_most)} (p {p:.4f}, Holm over {len(judged)} categories)"
            ),
            observed=f"{one.events} of {one.probes} ({percent(one.events / one.probes)})",
            threshold=f"at most {plain_percent(rule.at_most)}",
            note=True,
        )
        for one, p in zip(judged, adjusted, strict=True)
        if p < 1 - confidence
    ]


def _after_grader_errors(
    rule: Rule, item: Measured, findings: list[Finding], adapted: Rate, difference: Difference | None
) -> list[Finding]:
    """The findings, with a pass that the graders' possible errors could turn taken back (METHOD.md 5.7)."""
    errors = item.grader_errors
    if errors is None:
        return findings
    taken: list[Finding] = []
    causes: list[tuple[str, Finding]] = []
    for finding in findings:
        cause = _grader_cause(rule, item, finding, adapted, difference, errors)
        if cause is None:
            taken.append(finding)
        else:
            causes.append((cause, finding))
    if causes:
        # One reason for the whole measure: what mends one of them mends all.
        said = "; ".join(dict.fromkeys(cause for cause, _ in causes))
        kept = [finding for _, finding in causes]
        more = next(
            (
                times
                for times in MORE_LABELS
                if not any(_grader_cause(rule, item, one, adapted, difference, _scaled(errors, times)) for one in kept)
            ),
            None,
        )
        settles = (
            "label its answers too"
            if errors.base is None
            else "no number of labels would settle it, only better graders or more probes"
            if more is None
            else f"about {more} times as many labels would settle it if they agree as often"
        )
        taken.append(
            Finding(
                code="grader_error",
                verdict=Verdict.INCONCLUSIVE,
                message=f"{_label(rule)}: what the graders counted would pass, but {said}; {settles}",
                observed=causes[0][1].observed,
                interval=", ".join(finding.interval or "" for _, finding in causes),
                threshold=", ".join(finding.threshold or "" for _, finding in causes),
                fix="let people label a random sample of the answers of both arms, or use better graders",
            )
        )
    return taken


def _grader_cause(
    rule: Rule, item: Measured, finding: Finding, adapted: Rate, difference: Difference | None, errors: GraderErrors
) -> str | None:
    """Why errors that people's labels allow would turn what passed, or None when they would not."""
    of_adapted = _error_range(errors.adapted)
    if finding.code == "ceiling_kept" and rule.at_most is not None:
        found = correction.widened_rate((adapted.lower, adapted.upper), of_adapted)
        if isinstance(found, correction.NotCorrectable):
            return found.cause
        if found[1] > rule.at_most:
            return (
                f"with every error that {errors.adapted.bad + errors.adapted.good} labelled answers allow, the rate "
                f"may be {percent(found[1], beside=rule.at_most)}, above the ceiling of {plain_percent(rule.at_most)}"
            )
    if finding.code == "margin_kept" and rule.not_worse_than_base is not None and difference is not None:
        margin, table = rule.not_worse_than_base, item.table
        if errors.base is None or table is None:
            return "expected people's labels of the base too, got none: how far it was misread is unknown"
        of_base = _error_range(errors.base)
        share = (adapted.value, adapted.value), (table.base_events / table.probes,) * 2
        widened = correction.widened_difference(*share, of_adapted, of_base)
        if isinstance(widened, correction.NotCorrectable):
            return widened.cause
        # Dividing by J makes the error of the sample larger by as much.
        least = min(arm.sensitivity[0] + arm.specificity[0] - 1 for arm in (of_adapted, of_base))
        upper = widened.upper + (difference.upper - difference.value) / least
        if upper > margin:
            return (
                f"with every error that the labelled answers allow, the difference may be "
                f"{points(upper, beside=margin)}, beyond the margin of {plain_points(margin)}"
            )
    return None


def _scaled(errors: GraderErrors, times: int) -> GraderErrors:
    """The same agreement with more labels."""

    def scaled(one: LabelledCount) -> LabelledCount:
        return LabelledCount(
            detected=times * one.detected, bad=times * one.bad, cleared=times * one.cleared, good=times * one.good
        )

    return GraderErrors(adapted=scaled(errors.adapted), base=None if errors.base is None else scaled(errors.base))


def _error_range(labelled: LabelledCount) -> correction.ErrorRange:
    # 95 % two-sided: each error enters a limit from one side only.
    return correction.ErrorRange(
        sensitivity=rates.limits(labelled.detected, labelled.bad, 0.95),
        specificity=rates.limits(labelled.cleared, labelled.good, 0.95),
    )


def _movement(difference: Difference, margin: float, worse: bool, better: bool) -> Movement:
    if worse:
        return Movement.WORSE
    if better:
        return Movement.BETTER
    return Movement.SAME if -margin <= difference.lower and difference.upper <= margin else Movement.UNCLEAR


def _discordant(table: PairedTable) -> tuple[int, int, int]:
    return table.only_adapted, table.only_base, table.probes


def _clusters(item: Measured, *, base: bool = False) -> tuple[clusters.Cluster, ...]:
    """The clusters of a measurement; none where every probe stands alone."""
    return tuple(
        clusters.Cluster(
            probes=one.probes,
            events=one.base_events if base else one.events,
            base_events=0 if base else one.base_events,
            count=one.clusters,
        )
        for one in item.cluster_counts
        # Of fewer no spread can be estimated; `too_few_clusters` stands in the way of a pass then.
        if item.clusters >= FEWEST_CLUSTERS
    )


def _p_above(item: Measured, ceiling: float, confidence: float) -> float:
    """p that the ceiling is broken; where probes belong together the larger one of exact and cluster-robust."""
    p = rates.p_above_ceiling(item.events, item.probes, ceiling)
    if found := _clusters(item):
        limits = clusters.rate(found, confidence)
        return max(p, limits.robust.p_above(ceiling)) if limits.lower > ceiling else 1.0
    return p


def _p_moved(item: Measured, margin: float, confidence: float) -> tuple[float, float]:
    """p that the form is worse, and p that it is better, each by more than the margin."""
    if item.table is None:
        return 1.0, 1.0
    if (said := _people(item, confidence)) is not None:
        return said.p_worse(margin), said.p_better(margin)
    counts = _discordant(item.table)
    worse, better = paired.p_worse(*counts, margin), paired.p_better(*counts, margin)
    if found := _clusters(item):
        limits = clusters.difference(found, counts[0], counts[1], confidence)
        worse = max(worse, limits.robust.p_above(margin)) if limits.lower > margin else 1.0
        better = max(better, limits.robust.p_below(-margin)) if limits.upper < -margin else 1.0
    return worse, better


def _rate(item: Measured, confidence: float, *, base: bool = False) -> Rate:
    events = item.table.base_events if base and item.table is not None else item.events
    lower = rates.lower_limit(events, item.probes, confidence)
    upper = rates.upper_limit(events, item.probes, confidence)
    if found := _clusters(item, base=base):
        limits = clusters.rate(found, confidence)
        lower, upper = limits.lower, limits.upper
    return Rate(events=events, probes=item.probes, lower=lower, upper=upper, confidence=confidence)


def _people(item: Measured, confidence: float) -> LabelledDifference | None:
    """The difference by people's labels; None where there are none."""
    if item.labels is None or item.table is None:
        return None
    effect = 1.0
    if found := _clusters(item):
        counts = _discordant(item.table)
        limits = clusters.difference(found, counts[0], counts[1], confidence)
        effect = max(1.0, limits.robust.design_effect)
    return people.difference(item, confidence, effect)


def _difference(item: Measured, table: PairedTable, confidence: float) -> Difference:
    counts = _discordant(table)
    lower, upper = paired.lower_limit(*counts, confidence), paired.upper_limit(*counts, confidence)
    if found := _clusters(item):
        limits = clusters.difference(found, counts[0], counts[1], confidence)
        lower, upper = limits.lower, limits.upper
    said = _people(item, confidence)
    if said is not None:
        lower, upper = said.lower, said.upper
    return Difference(
        only_adapted=counts[0],
        only_base=counts[1],
        probes=counts[2],
        lower=lower,
        upper=upper,
        confidence=confidence,
        mcnemar_p=paired.mcnemar_p(counts[0], counts[1]),
        people=said,
    )


def _finding(
    code: str,
    verdict: Verdict,
    message: str,
    adapted: Rate,
    interval: str,
    threshold: str,
    *,
    fix: str | None = None,
    more: int | None = None,
) -> Finding:
    return Finding(
        code=code,
        verdict=verdict,
        message=message,
        observed=str(adapted),
        interval=interval,
        threshold=threshold,
        fix=f"assess with a battery of about {more:,} more probes for this measure" if more else fix,
        more_probes=more,
    )


def _label(rule: Rule) -> str:
    return f"{rule.id} ({rule.title})"


def _settles(more: int | None) -> str:
    if more is None:
        return "the value is at the limit itself, so more probes would not settle it"
    if more == 0:
        return "taken alone it would be settled, but not among all rules of the policy (Holm)"
    return f"about {more:,} more probes would settle it if the rates stay as they are"


def percent(value: float, beside: float | None = None) -> str:
    """A share as a person reads it, `11.7 %`; with as many digits as it takes to differ from the value `beside`."""
    return f"{_digits(value, beside)} %"


def points(value: float, beside: float | None = None) -> str:
    """A difference of shares in percentage points, `+2.5 pp`."""
    return f"{_digits(value, beside, sign='+')} pp"


def plain_percent(value: float) -> str:
    """A threshold as its author wrote it, `5 %`."""
    return f"{100 * value:.6g} %"


def plain_points(value: float) -> str:
    """A margin as its author wrote it, `5 pp`."""
    return f"{100 * value:.6g} pp"


def _digits(value: float, beside: float | None, sign: str = "") -> str:
    decimals = 1
    if beside is not None and value != beside:
        while decimals < 6 and f"{100 * value:.{decimals}f}" == f"{100 * beside:.{decimals}f}":
            decimals += 1
    if beside is None and float(100 * value).is_integer() and not sign:
        return f"{100 * value:.0f}"
    return f"{100 * value:{sign}.{decimals}f}"
