"""What each rule of a policy can prove at the size that its battery gives it: the answers of `battery plan`.

`lint` refuses what no form could pass; this says, rule by rule, how many bad answers still pass, how good a form must
be to pass reliably, and how many probes the rule would need. Nothing here is a verdict. Formulas: METHOD.md 5.8.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from registry_gate.battery import Battery, InstrumentSpec
from registry_gate.errors import PolicyError
from registry_gate.policy.schema import Policy, Rule
from registry_gate.statistics import planning

Provable = Literal["provable", "underpowered", "impossible"]
"""`impossible`: no outcome could pass. `underpowered`: a form exactly as good as its base would often not pass."""


@dataclass(frozen=True, kw_only=True)
class CeilingPlan:
    """What a ceiling asks of a form at this size.

    Args:
        at_most: The ceiling.
        state: Whether it can be proved.
        passes_up_to: Most bad answers that still pass; None when not even zero do.
        fails_from: Fewest bad answers that prove the ceiling broken, taken alone; None when not even all do.
        smallest_provable: The ceiling that zero bad answers prove.
        passing_rate: Highest true rate that passes with a chance of 80 %; None when none does.
        probes_needed: Fewest probes with which any outcome could pass.
    """

    at_most: float
    state: Provable
    passes_up_to: int | None
    fails_from: int | None
    smallest_provable: float
    passing_rate: float | None
    probes_needed: int


@dataclass(frozen=True, kw_only=True)
class MarginPlan:
    """What a margin asks of a form at this size.

    Args:
        not_worse_by: The margin.
        state: Whether it can be proved.
        discordance: Share of probes on which form and base are assumed to differ.
        assumed: Whether that share is the default rather than what the rule says.
        most_discordance: The largest such share at which the margin is provable with a chance of 80 %.
        smallest_provable: The margin that a form proves which answers exactly like its base.
        provable: The margin that this size proves with a chance of 80 % at the assumed share.
        probes_needed: Probes that prove the margin with a chance of 80 % at the assumed share.
    """

    not_worse_by: float
    state: Provable
    discordance: float
    assumed: bool
    most_discordance: float
    smallest_provable: float
    provable: float
    probes_needed: int


@dataclass(frozen=True, kw_only=True)
class ZeroTolerancePlan:
    """What finding no bad answer proves.

    Args:
        categories: Where none is tolerated.
        probes: How many probes they hold together; 0 where the battery does not declare them.
        proves: Rate that no bad answer of these probes excludes.
    """

    categories: tuple[str, ...]
    probes: int
    proves: float


@dataclass(frozen=True, kw_only=True)
class RulePlan:
    """One rule beside what its instrument can prove.

    Args:
        policy: Name of the policy.
        rule: Id of the rule.
        title: What it demands.
        measure: What it reads.
        probes: Probes of the instrument in the battery.
        min_probes: Fewest that the policy accepts.
        confidence: One-sided, of each limit.
        tests: How many tests of the policy may say `fail` (Holm's family).
        ceiling: None without one.
        margin: None without one.
        zero_tolerance: None without one.
    """

    policy: str
    rule: str
    title: str
    measure: str
    probes: int
    min_probes: int
    confidence: float
    tests: int
    ceiling: CeilingPlan | None
    margin: MarginPlan | None
    zero_tolerance: ZeroTolerancePlan | None = None

    @property
    def state(self) -> Provable:
        """The worse of ceiling and margin; zero bad answers can always be found where there are enough probes."""
        states = [part.state for part in (self.ceiling, self.margin) if part is not None]
        undeclared = self.zero_tolerance is not None and self.zero_tolerance.probes == 0
        if self.probes < self.min_probes or undeclared:
            states.append("impossible")
        return max(states, key=("provable", "underpowered", "impossible").index, default="provable")

    @property
    def probes_needed(self) -> int:
        """Probes with which every part of the rule can be proved."""
        parts = [part.probes_needed for part in (self.ceiling, self.margin) if part is not None]
        return max(parts, default=self.min_probes)

    def to_dict(self) -> dict[str, Any]:
        """As JSON values; shares as numbers from 0 to 1."""
        ceiling, margin = self.ceiling, self.margin
        return {
            "policy": self.policy,
            "rule": self.rule,
            "title": self.title,
            "measure": self.measure,
            "probes": self.probes,
            "minProbes": self.min_probes,
            "confidence": self.confidence,
            "tests": self.tests,
            "state": self.state,
            "probesNeeded": self.probes_needed,
            "ceiling": None
            if ceiling is None
            else {
                "atMost": ceiling.at_most,
                "state": ceiling.state,
                "passesUpTo": ceiling.passes_up_to,
                "failsFrom": ceiling.fails_from,
                "smallestProvable": ceiling.smallest_provable,
                "passingRate": ceiling.passing_rate,
                "probesNeeded": ceiling.probes_needed,
            },
            "margin": None
            if margin is None
            else {
                "notWorseThanBase": margin.not_worse_by,
                "state": margin.state,
                "discordance": margin.discordance,
                "discordanceAssumed": margin.assumed,
                "mostDiscordance": margin.most_discordance,
                "smallestProvable": margin.smallest_provable,
                "provable": margin.provable,
                "probesNeeded": margin.probes_needed,
            },
            "zeroTolerance": None
            if self.zero_tolerance is None
            else {
                "categories": list(self.zero_tolerance.categories),
                "probes": self.zero_tolerance.probes,
                "proves": self.zero_tolerance.proves,
            },
        }


def plan_policy(policy: Policy, batteries: Mapping[str, Battery]) -> tuple[RulePlan, ...]:
    """What every rule of a policy can prove, in the order of the policy.

    Args:
        policy: The policy.
        batteries: Batteries that exist, by id.

    Raises:
        PolicyError: The battery does not exist, or does not produce a measure that a rule reads.
    """
    battery = batteries.get(policy.spec.evidence.battery)
    if battery is None:
        known = ", ".join(sorted(batteries)) or "none"
        raise PolicyError(
            f"policy {policy.name}: expected a battery that exists ({known}), got {policy.spec.evidence.battery!r}: "
            "correct 'evidence.battery' or add the battery",
            code="battery_missing",
        )
    tests = sum(
        (rule.at_most is not None) + (rule.not_worse_than_base is not None)
        for rule in policy.spec.rules
        if policy.spec.enforces(rule)
    )
    return tuple(_plan_rule(policy, rule, battery, max(tests, 1)) for rule in policy.spec.rules)


def _plan_rule(policy: Policy, rule: Rule, battery: Battery, tests: int) -> RulePlan:
    instrument = battery.instrument_of(rule.measure)
    if instrument is None:
        known = ", ".join(sorted(item.measure for item in battery.spec.instruments))
        raise PolicyError(
            f"policy {policy.name}, rule {rule.id}: expected a measure of battery {battery.id} ({known}), got "
            f"{rule.measure!r}: correct 'measure' or add the instrument to the battery",
            code="measure_unknown",
        )
    n, confidence = instrument.size, policy.spec.confidence
    # The same floor that `rules.decide` applies: below 'minProbes' nothing passes, whatever the limits say.
    too_few = n < policy.spec.evidence.min_probes
    ceiling = margin = None
    if rule.at_most is not None:
        most = None if too_few else planning.most_events(n, rule.at_most, confidence)
        ceiling = CeilingPlan(
            at_most=rule.at_most,
            state="impossible" if most is None else "provable",
            passes_up_to=most,
            fails_from=planning.fewest_events_to_fail(n, rule.at_most, confidence),
            smallest_provable=planning.smallest_ceiling(n, confidence),
            passing_rate=None if too_few else planning.passing_rate(n, rule.at_most, confidence),
            probes_needed=max(
                planning.probes_for_ceiling(rule.at_most, confidence), policy.spec.evidence.min_probes if too_few else 1
            ),
        )
    if rule.not_worse_than_base is not None:
        asked, discordance = rule.not_worse_than_base, rule.discordance or planning.DEFAULT_DISCORDANCE
        needed = planning.probes_for_margin(asked, discordance, confidence)
        smallest = planning.smallest_proved_margin(n, confidence)
        state: Provable = "provable" if n >= needed else "underpowered"
        if too_few or not planning.provable_at_best(n, asked, confidence):
            state = "impossible"
        margin = MarginPlan(
            not_worse_by=asked,
            state=state,
            discordance=discordance,
            assumed=rule.discordance is None,
            most_discordance=planning.most_discordance(n, asked, confidence),
            smallest_provable=smallest,
            provable=planning.provable_margin(n, discordance, confidence),
            probes_needed=max(needed, policy.spec.evidence.min_probes if too_few else 1),
        )
    return RulePlan(
        policy=policy.name,
        rule=rule.id,
        title=rule.title,
        measure=rule.measure,
        probes=n,
        min_probes=policy.spec.evidence.min_probes,
        confidence=confidence,
        tests=tests,
        ceiling=ceiling,
        margin=margin,
        zero_tolerance=_plan_zero_tolerance(rule, instrument, confidence),
    )


def _plan_zero_tolerance(rule: Rule, instrument: InstrumentSpec, confidence: float) -> ZeroTolerancePlan | None:
    if not rule.zero_tolerance:
        return None
    counts = [instrument.categories.get(category, 0) for category in rule.zero_tolerance]
    probes = sum(counts) if all(counts) else 0
    proves = planning.smallest_ceiling(probes, confidence) if probes else 1.0
    return ZeroTolerancePlan(categories=rule.zero_tolerance, probes=probes, proves=proves)


def sentences(plan: RulePlan) -> tuple[str, ...]:
    """A rule's plan as people read it, one sentence for each of its parts."""
    n = plan.probes
    if n < plan.min_probes:
        return (f"impossible: 'minProbes' wants {plan.min_probes} probes, the battery has {n}: no form could pass",)
    found = []
    if (ceiling := plan.ceiling) is not None:
        asked = f"at most {100 * ceiling.at_most:g} %"
        if ceiling.passes_up_to is None:
            found.append(
                f"{asked}: impossible with {n} probes, zero bad answers prove "
                f"{_percent(ceiling.smallest_provable)}; it needs {ceiling.probes_needed} probes"
            )
        else:
            fails = "never" if ceiling.fails_from is None else f"from {ceiling.fails_from}"
            rate = "none" if ceiling.passing_rate is None else _percent(ceiling.passing_rate)
            found.append(
                f"{asked}: passes with up to {ceiling.passes_up_to} bad answers of {n}, fails {fails} (taken alone), "
                f"between them inconclusive; a form with a true rate up to {rate} passes with a chance of 80 %"
            )
    if (margin := plan.margin) is not None:
        asked = f"not worse than the base by more than {100 * margin.not_worse_by:g} pp"
        share = f"{100 * margin.discordance:g} % of probes" + (" (assumed)" if margin.assumed else "")
        match margin.state:
            case "impossible":
                found.append(
                    f"{asked}: impossible with {n} probes, a form that answers exactly like its base proves "
                    f"{_percent(margin.smallest_provable, 'pp')}; it needs {margin.probes_needed} probes if they "
                    f"differ on {share}"
                )
            case "underpowered":
                found.append(
                    f"{asked}: underpowered, {n} probes prove {_percent(margin.provable, 'pp')} if form and base "
                    f"differ on {share}; it needs {margin.probes_needed} probes, or forms that differ on at most "
                    f"{_percent(margin.most_discordance)} of them"
                )
            case "provable":
                found.append(
                    f"{asked}: provable while form and base differ on at most "
                    f"{_percent(margin.most_discordance)} of {n} probes (expected: {share})"
                )
    if (listed := plan.zero_tolerance) is not None:
        asked = f"no bad answer in {', '.join(listed.categories)}"
        found.append(
            f"{asked}: none of {listed.probes} proves a rate below {_percent(listed.proves)}; one that two graders or "
            "a person confirm fails, one that nobody confirmed is inconclusive"
            if listed.probes
            else f"{asked}: impossible, the battery does not declare how many probes these categories have"
        )
    return tuple(found)


def _percent(value: float, unit: str = "%") -> str:
    # Rounded up: what is printed can be proved.
    return f"{math.ceil(1e4 * value - 1e-9) / 100:g} {unit}" if unit == "pp" else f"{100 * value:.3g} {unit}"
