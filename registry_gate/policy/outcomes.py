"""What each rule of a policy makes of one assessment: the numbers, the limits and the verdict, computed once.

`rules.decide` turns these outcomes into reasons, reports print them as a table; nobody computes them a second time.
The definitions are METHOD.md sections 2 and 5: exact one-sided limits against the ceiling, Tango's score limit against
the margin, Holm over everything that may say `fail`, and `fail` and `conflict` disjoint.

Not done here: limits that account for clusters. An assessment carries the number of clusters, not their tables; with
fewer than ten of them nothing passes, and above that the limits treat probes as independent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from registry_gate.assessment import Assessment, Measured, NotMeasured, PairedTable
from registry_gate.battery import Battery
from registry_gate.decision import Verdict, worst
from registry_gate.policy.schema import Enforcement, Policy, Rule
from registry_gate.statistics import paired, planning, rates
from registry_gate.statistics.multiplicity import holm

FEWEST_CLUSTERS = 10
"""Fewer independent groups of probes carry no limit worth the name (METHOD.md 5.3)."""


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
    """Share of bad answers with its exact one-sided limits.

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
    """Adapted minus base on the same probes, positive is worse, with Tango's one-sided limits.

    Args:
        only_adapted: Probes bad in the adapted form alone.
        only_base: Probes bad in the base alone.
        probes: Paired probes.
        lower: Lower limit.
        upper: Upper limit.
        confidence: Of each limit alone.
        mcnemar_p: Exact two-sided p of no change at all; for the reader, no rule rests on it.
    """

    only_adapted: int
    only_base: int
    probes: int
    lower: float
    upper: float
    confidence: float
    mcnemar_p: float

    @property
    def value(self) -> float:
        """The difference itself."""
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
    """

    code: str
    verdict: Verdict
    message: str
    observed: str | None = None
    interval: str | None = None
    threshold: str | None = None
    fix: str | None = None
    more_probes: int | None = None


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

    def to_dict(self) -> dict[str, Any]:
        """As JSON values for reports and `--format json`; numbers unrounded."""

        def rate(value: Rate | None) -> dict[str, Any] | None:
            if value is None:
                return None
            return {"events": value.events, "rate": value.value, "lower": value.lower, "upper": value.upper}

        difference = self.difference
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
    outcomes = {outcome.rule.id: outcome for group in (enforcing, others) for outcome in _family(policy, group, found)}
    return tuple(outcomes[rule.id] for rule in policy.spec.rules)


Found = tuple[Measured | None, tuple[Finding, ...]]
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
    elif item.probes != instrument.size:
        message = f"expected all {instrument.size} probes of {rule.measure}, got {item.probes}: the run is not complete"
        problems.append(broken("incomplete", message))
    least = policy.spec.evidence.min_probes
    if item.probes < least:
        problems.append(
            broken("too_few_probes", f"expected at least {least} probes of {rule.measure}, got {item.probes}")
        )
    if rule.not_worse_than_base is not None and item.table is None:
        message = f"{rule.measure} was not measured on the base, so whether the form is worse cannot be said"
        problems.append(broken("base_not_measured", message))
    return item, tuple(problems)


def _family(policy: Policy, rules: Sequence[Rule], found: Mapping[str, Found]) -> list[RuleOutcome]:
    """Judge the rules of one family together, because Holm and conflict look at all of them."""
    confidence = policy.spec.confidence
    alpha = 1 - confidence

    # (1) Every test that the policy fixes is in the family, also one that could not be made (p = 1).
    worse_tests: dict[tuple[str, str], float] = {}
    better_tests: dict[tuple[str, str], float] = {}
    for rule in rules:
        item, problems = found[rule.id]
        usable = item if not problems else None
        if rule.at_most is not None:
            p = 1.0 if usable is None else rates.p_above_ceiling(usable.events, usable.probes, rule.at_most)
            worse_tests[rule.id, "ceiling"] = p
        if rule.not_worse_than_base is not None:
            table = None if usable is None else usable.table
            beyond = rule.not_worse_than_base
            worse_tests[rule.id, "margin"] = 1.0 if table is None else paired.p_worse(*_discordant(table), beyond)
            better_tests[rule.id, "margin"] = 1.0 if table is None else paired.p_better(*_discordant(table), beyond)
    worse_p = dict(zip(worse_tests, holm(list(worse_tests.values())), strict=True))
    better_p = dict(zip(better_tests, holm(list(better_tests.values())), strict=True))

    # (2) Who moved beyond its margin, and whether any ceiling is broken: together they tell fail from conflict.
    worse = [rule for rule in rules if worse_p.get((rule.id, "margin"), 1.0) < alpha]
    better = [rule for rule in rules if better_p.get((rule.id, "margin"), 1.0) < alpha]
    ceiling_broken = any(kind == "ceiling" and p < alpha for (_, kind), p in worse_p.items())

    outcomes = []
    for rule in rules:
        item, problems = found[rule.id]
        findings = list(problems)
        adapted = None if item is None else _rate(item.events, item.probes, confidence)
        table = None if item is None else item.table
        base = None if table is None else _rate(table.base_events, table.probes, confidence)
        difference = None if table is None else _difference(table, confidence)
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
                findings.append(_judge_margin(rule, margin, adapted, base, difference, movement, against))
            # (5) Whether the numbers can be relied on: independent groups of probes, graders that agree.
            findings.extend(_judge_reliability(policy, rule, item))
        counts = [finding.more_probes for finding in findings if finding.code in OPEN]
        outcomes.append(
            RuleOutcome(
                policy=policy.name,
                rule=rule,
                enforcement=policy.spec.enforcement_of(rule),
                blocking=policy.spec.enforces(rule),
                verdict=worst(finding.verdict for finding in findings),
                findings=tuple(findings),
                probes=None if item is None else item.probes,
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
            )
        )
    return outcomes


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
) -> Finding:
    level = percent(difference.confidence)
    upper, lower = points(difference.upper, beside=margin), points(difference.lower, beside=margin)
    asked = f"not worse than the base by more than {plain_points(margin)}"
    where = f"{_label(rule)}: {rule.measure} {adapted} against {base} in the base, {difference}"
    if movement is Movement.WORSE:
        interval = f"lower {level} limit {lower}"
        if better:
            names = ", ".join(f"{other.id} ({other.measure})" for other in better)
            message = (
                f"{where}: worse by more than the margin of {plain_points(margin)} (lower {level} limit {lower}), "
                f"while {names} is better by more than its own; a person must look at this contradiction"
            )
            fix = "review both measures; a gain in one never pays for a loss in another"
            return _finding("conflict", Verdict.CONFLICT, message, adapted, interval, asked, fix=fix)
        message = f"{where}: even the lower {level} limit {lower} is beyond the margin of {plain_points(margin)}"
        return _finding("worse_than_base", Verdict.FAIL, message, adapted, interval, asked)
    if difference.upper <= margin:
        message = f"{where}, upper {level} limit {upper}: within the margin of {plain_points(margin)}"
        return _finding("margin_kept", Verdict.PASS, message, adapted, f"upper {level} limit {upper}", asked)
    more = planning.more_probes_for_margin(
        difference.only_adapted, difference.only_base, difference.probes, margin, difference.confidence
    )
    message = (
        f"{where}: the upper {level} limit {upper} is beyond the margin of {plain_points(margin)}, but that it is "
        f"worse is not proved; {_settles(more)}"
    )
    interval = f"{level} limits {lower} and {upper}"
    return _finding("margin_inconclusive", Verdict.INCONCLUSIVE, message, adapted, interval, asked, more=more)


def _judge_reliability(policy: Policy, rule: Rule, item: Measured) -> list[Finding]:
    findings = []
    if item.clusters < FEWEST_CLUSTERS:
        message = (
            f"{_label(rule)}: the {item.probes} probes of {rule.measure} form only {item.clusters} independent groups, "
            f"expected at least {FEWEST_CLUSTERS}"
        )
        findings.append(Finding(code="too_few_clusters", verdict=Verdict.INCONCLUSIVE, message=message))
    limit = policy.spec.disagreement.graders
    if limit is None:
        return findings
    compared = [disagreement for disagreement in item.disagreements if disagreement.compared]
    asked = f"graders differ on at most {plain_percent(limit.at_most)}"
    if not compared:
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


def _movement(difference: Difference, margin: float, worse: bool, better: bool) -> Movement:
    if worse:
        return Movement.WORSE
    if better:
        return Movement.BETTER
    return Movement.SAME if -margin <= difference.lower and difference.upper <= margin else Movement.UNCLEAR


def _discordant(table: PairedTable) -> tuple[int, int, int]:
    return table.only_adapted, table.only_base, table.probes


def _rate(events: int, probes: int, confidence: float) -> Rate:
    return Rate(
        events=events,
        probes=probes,
        lower=rates.lower_limit(events, probes, confidence),
        upper=rates.upper_limit(events, probes, confidence),
        confidence=confidence,
    )


def _difference(table: PairedTable, confidence: float) -> Difference:
    counts = _discordant(table)
    return Difference(
        only_adapted=table.only_adapted,
        only_base=table.only_base,
        probes=table.probes,
        lower=paired.lower_limit(*counts, confidence),
        upper=paired.upper_limit(*counts, confidence),
        confidence=confidence,
        mcnemar_p=paired.mcnemar_p(table.only_adapted, table.only_base),
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
