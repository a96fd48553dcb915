"""Find what is wrong with a policy that is well formed: what it could never prove, never measure or never govern.

Errors make a policy unenforceable and stop the load; warnings do not. Statements about sizes are METHOD.md 5.8.
Not looked at here: the registry. Which of its targets no policy governs is for `explain`.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from types import MappingProxyType
from typing import Literal

from registry_gate.battery import METRIC_AXES, Battery, InstrumentSpec
from registry_gate.documents import Problem, RawDocument
from registry_gate.form import WEIGHT_FORMATS
from registry_gate.policy.controls import Controls
from registry_gate.policy.names import matches
from registry_gate.policy.overlap import overlaps
from registry_gate.policy.schema import Match, Policy, PolicySetFile, Rule
from registry_gate.promotion import Target, TargetKind
from registry_gate.statistics import planning

DEPLOYED_NAMES = ("champion", "production", "prod", "live", "stable", "default")
"""Aliases that people do deploy from; a free one of these is hardly ever meant."""

LENIENT = 0.5
"""A ceiling or a margin from here on lets through what nobody means to allow; half a percent is 0.005."""

LONG_WAIVER = timedelta(days=90)
"""Waivers that may last longer draw a remark."""

LONG_BREAK_GLASS = timedelta(hours=24)
"""Break-glass that may last longer draws a remark."""

UNHEARD_OF = "(any model)"
"""Stands for every model that policies do not name; no pattern but a general one fits it."""


@dataclass(frozen=True, kw_only=True)
class LintProblem(Problem):
    """A problem with a stable code and a level.

    Args:
        code: e.g. `measure_unknown`.
        level: `error` stops the load, `warning` does not.
    """

    code: str
    level: Literal["error", "warning"]


def lint_policy(
    policy: Policy,
    raw: RawDocument,
    batteries: Mapping[str, Battery],
    signers: Collection[str],
    people: Collection[str] = (),
    controls: Controls = MappingProxyType({}),
) -> list[LintProblem]:
    """Everything wrong with one policy, in the order of the file.

    Args:
        policy: The policy.
        raw: The document that it came from, for the lines.
        batteries: Batteries that exist, by id.
        signers: Names of the signers of the policy set.
        people: Names of the people of the policy set.
        controls: The control catalogue; where it is empty, ids are not looked at.
    """
    found: list[LintProblem] = []

    def report(level: Literal["error", "warning"], code: str, location: Sequence[str | int], message: str) -> None:
        problem = raw.problem(location, message)
        found.append(
            LintProblem(
                file=problem.file,
                line=problem.line,
                key=problem.key,
                message=problem.message,
                code=code,
                level=level,
            )
        )

    spec = policy.spec
    # (1) It governs something.
    for number, match in enumerate(spec.match.any):
        if _excluded(policy, match):
            message = "expected a match that covers a target, got one whose every target is under 'exclude': it is dead"
            report("error", "matches_nothing", ("spec", "match", "any", number), message)

    # (2) Its evidence can exist: the battery, and signers that the policy set knows.
    signing = [("evidence", spec.evidence.signed_by)]
    if spec.grader_admission is not None:
        signing.append(("graderAdmission", spec.grader_admission.signed_by))
    for key, named in signing:
        for number, signer in enumerate(named):
            if signer not in signers:
                message = (
                    f"expected a signer of policy-set.yaml ({_listed(signers)}), got {signer!r}"
                    f"{_close(signer, signers)}"
                )
                report("error", "signer_unknown", ("spec", key, "signedBy", number), message)
    battery = batteries.get(spec.evidence.battery)
    if battery is None:
        name = spec.evidence.battery
        message = f"expected a battery that exists ({_listed(batteries)}), got {name!r}{_close(name, batteries)}"
        report("error", "battery_missing", ("spec", "evidence", "battery"), message)

    admission = spec.grader_admission
    if battery is not None and admission is not None and admission.false_negatives_at_most is None:
        read = {rule.measure for rule in spec.rules}
        judged = [one.measure for one in battery.spec.instruments if one.measure in read and _needs_harm(one)]
        if judged:
            message = (
                f"{_listed(judged)} rests on a grader of harm, and nothing limits how much harm it may miss: add "
                "falseNegativesAtMost"
            )
            report("warning", "misses_unlimited", ("spec", "graderAdmission"), message)

    formats = sorted({*WEIGHT_FORMATS.values(), "other"})
    for number, name in enumerate(spec.subject.formats):
        location = ("spec", "subject", "formats", number)
        if name not in formats:
            message = f"expected a format of weights ({_listed(formats)}), got {name!r}{_close(name, formats)}"
            report("error", "format_unheard_of", location, message)
        elif name == "pickle":
            message = "pickle runs whatever code its author put there when it is loaded"
            report("warning", "format_runs_code", location, message)

    # (3) Each rule can be measured, and passed.
    for number, rule in enumerate(spec.rules):
        place = ("spec", "rules", number)
        if battery is not None:
            instrument = battery.instrument_of(rule.measure)
            if instrument is None:
                produced = [item.measure for item in battery.spec.instruments]
                message = (
                    f"expected a measure of battery {battery.id} ({_listed(produced)}), "
                    f"got {rule.measure!r}{_close(rule.measure, produced)}"
                )
                report("error", "measure_unknown", (*place, "measure"), message)
            else:
                for level, code, key, message in _sizes(policy, rule, instrument):
                    report(level, code, (*place, key), message)
        if rule.not_worse_than_base is not None and spec.subject.base == "optional":
            message = (
                "a form without a base can never pass this rule, although 'subject.base' is optional; "
                "write 'base: required' or leave the margin out"
            )
            report("warning", "base_optional", (*place, "notWorseThanBase"), message)
        if rule.effective_from is not None and spec.effective_from_of(rule) is None:
            message = f"the rule never denies ({spec.enforcement_of(rule)}), so nothing begins at this date"
            report("warning", "date_without_effect", (*place, "effectiveFrom"), message)
        for index, control in enumerate(rule.controls):
            known = controls.get(control)
            if known is None and controls:
                message = f"expected a control of the catalogue (controls/), got {control!r}{_close(control, controls)}"
                report("warning", "control_unknown", (*place, "controls", index), message)
            elif known is not None and known.retired is not None:
                message = f"expected a control that is in force, got {control!r}; {known.retired}"
                report("warning", "control_retired", (*place, "controls", index), message)
            elif known is not None and known.evidence == "none":
                message = f"no rule gives evidence for {control!r} ({known.title}): {known.not_shown}"
                report("warning", "control_without_evidence", (*place, "controls", index), message)

    # (4) Waivers can be granted, and end soon.
    for number, name in enumerate(spec.waivers.approvers if spec.waivers is not None else ()):
        if name not in people:
            message = f"expected somebody under 'people' of policy-set.yaml ({_listed(people)}), got {name!r}"
            report(
                "error", "approver_unknown", ("spec", "waivers", "approvers", number), message + _close(name, people)
            )
    if spec.waivers is not None and spec.waivers.longest_delta > LONG_WAIVER:
        message = f"waivers of up to {spec.waivers.longest} outlive what they were granted for: at most 90d is usual"
        report("warning", "long_waiver", ("spec", "waivers", "longest"), message)

    # (5) Approvals can be given, whoever asks.
    approvals = spec.approvals
    for number, name in enumerate(approvals.approvers if approvals is not None else ()):
        if name not in people:
            message = f"expected somebody under 'people' of policy-set.yaml ({_listed(people)}), got {name!r}"
            message += _close(name, people)
            report("error", "approver_unknown", ("spec", "approvals", "from", number), message)
    if approvals is not None and len(set(approvals.approvers)) == approvals.count:
        message = f"all {approvals.count} must approve, so none of them can ever ask for a promotion: name one more"
        report("warning", "approvals_exclude_requester", ("spec", "approvals", "from"), message)

    # (6) It says what follows when graders contradict each other.
    if spec.disagreement.graders is None:
        message = "no limit on how often graders may disagree: add 'disagreement: {graders: {atMost: 0.10}}'"
        report("warning", "no_disagreement_limit", ("spec",), message)
    return found


def lint_overlaps(document: PolicySetFile, policies: Sequence[tuple[Policy, RawDocument]]) -> list[LintProblem]:
    """Remarks on policies that get in each other's way. See `overlap`."""
    found = []
    for raw, code, location, message in overlaps(document, policies) if policies else ():
        problem = raw.problem(location, message)
        found.append(LintProblem(**vars(problem), code=code, level="warning"))
    return found


def lint_set(document: PolicySetFile, raw: RawDocument, policies: Sequence[Policy]) -> list[LintProblem]:
    """What is wrong with the policies taken together.

    Args:
        document: `policy-set.yaml`.
        raw: The document that it came from.
        policies: All policies of the set.
    """
    found: list[LintProblem] = []

    def report(level: Literal["error", "warning"], code: str, location: Sequence[str | int], message: str) -> None:
        problem = raw.problem(location, message)
        found.append(
            LintProblem(
                file=problem.file,
                line=problem.line,
                key=problem.key,
                message=problem.message,
                code=code,
                level=level,
            )
        )

    def warn(code: str, location: Sequence[str | int], message: str) -> None:
        report("warning", code, location, message)

    allowed = document.spec.break_glass
    people = [person.name for person in document.spec.people]
    for number, role in enumerate(allowed.roles if allowed is not None else ()):
        for index, name in enumerate(role.people):
            if name not in people:
                message = f"expected somebody under 'people' ({_listed(people)}), got {name!r}{_close(name, people)}"
                report("error", "person_unknown", ("spec", "breakGlass", "roles", number, "people", index), message)
    if allowed is not None and allowed.longest_delta > LONG_BREAK_GLASS:
        message = f"break-glass of up to {allowed.longest} is a second way in, not an emergency: at most 24h is usual"
        warn("long_break_glass", ("spec", "breakGlass", "longest"), message)
    for name in DEPLOYED_NAMES:
        if matches(name, document.spec.free_aliases):
            warn("free_deployed_name", ("spec", "freeAliases"), f"alias {name} is free: it moves without any evidence")
    for kind, name in ((TargetKind.ALIAS, "champion"), (TargetKind.STAGE, "Production")):
        target = Target(kind=kind, model=UNHEARD_OF, name=name)
        if kind is TargetKind.ALIAS and matches(name, document.spec.free_aliases):
            continue
        governing = [policy for policy in policies if policy.governs(target)]
        shown = f"{kind} {name} of a model that no policy names"
        if not governing and document.spec.unmatched == "allow":
            warn(
                "ungoverned",
                ("spec", "unmatched"),
                f"{shown} is promoted unchecked: add a policy for '*' or write deny",
            )
        elif not governing:
            warn(
                "ungoverned",
                ("spec", "unmatched"),
                f"{shown} is always denied: add a policy for '*' if that is not meant",
            )
        elif not any(policy.enforces for policy in governing):
            names = _listed(policy.name for policy in governing)
            warn("only_staged", ("spec",), f"{shown} is governed only by policies that cannot deny ({names})")
    return found


def _needs_harm(instrument: InstrumentSpec) -> bool:
    return "harm" in METRIC_AXES.get(instrument.metric, ()) or "harm" in instrument.event


def _excluded(policy: Policy, match: Match) -> bool:
    """Whether the exclusions swallow the whole match. Patterns are compared as text or as names, never by guess."""
    models = all(matches(model, policy.spec.exclude.models) for model in match.models)
    aliases = not match.stages and all(matches(alias, policy.spec.exclude.aliases) for alias in match.aliases)
    return models or aliases


def _sizes(
    policy: Policy, rule: Rule, instrument: InstrumentSpec
) -> list[tuple[Literal["error", "warning"], str, str, str]]:
    """What the number of probes can prove about a rule: level, code, key and sentence of what it cannot."""
    n, confidence = instrument.size, policy.spec.confidence
    sure = f"with {100 * confidence:g} % certainty"
    problems: list[tuple[Literal["error", "warning"], str, str, str]] = []
    least = policy.spec.evidence.min_probes
    if n < least:
        message = f"the battery puts {n} probes of {rule.measure}, but 'minProbes' wants {least}: no form could pass"
        problems.append(("error", "impossible", "measure", message))
    if rule.at_most is not None and planning.smallest_ceiling(n, confidence) > rule.at_most:
        needed = planning.probes_for_ceiling(rule.at_most, confidence)
        provable = 100 * planning.smallest_ceiling(n, confidence)
        message = (
            f"expected a ceiling that {n} probes can prove {sure} (at least {provable:.2f} %, that of no bad answer at "
            f"all), got {100 * rule.at_most:g} %: no form could pass; it needs {needed} probes"
        )
        problems.append(("error", "impossible", "atMost", message))
    for key, limit in (("atMost", rule.at_most), ("notWorseThanBase", rule.not_worse_than_base)):
        if limit is not None and limit >= LENIENT:
            message = f"{limit:g} is {100 * limit:g} %, so the rule hardly ever decides; {limit:g} % is {limit / 100:g}"
            problems.append(("warning", "lenient", key, message))
    for category in rule.zero_tolerance:
        if category not in instrument.categories:
            declared = instrument.categories
            message = (
                f"expected categories that the battery declares for {rule.measure} ({_listed(declared)}), got "
                f"{category!r}{_close(category, declared)}: no form could pass; write 'categories' into the battery"
            )
            problems.append(("error", "category_unknown", "zeroTolerance", message))
    problems += _lone_grader(policy, rule, instrument)
    margin = rule.not_worse_than_base
    if margin is None:
        return problems
    discordance = rule.discordance or planning.DEFAULT_DISCORDANCE
    needed = planning.probes_for_margin(margin, discordance, confidence)
    if not planning.provable_at_best(n, margin, confidence):
        provable = 100 * planning.smallest_proved_margin(n, confidence)
        message = (
            f"expected a margin that {n} probes can prove {sure} (at least {provable:.2f} pp, that of a form answering "
            f"exactly like its base), got {100 * margin:g} pp: no form could pass; it needs at least "
            f"{planning.probes_for_margin_at_best(margin, confidence)} probes, and {needed} if form and base differ on "
            f"{100 * discordance:g} % of them"
        )
        problems.append(("error", "impossible", "notWorseThanBase", message))
    elif n < needed:
        provable = 100 * planning.provable_margin(n, discordance, confidence)
        message = (
            f"{n} probes prove {provable:.1f} pp, not {100 * margin:g} pp, if form and base differ on "
            f"{100 * discordance:g} % of them: a form as good as its base would often be inconclusive; it needs "
            f"{needed} probes (or say with 'discordance' on what share they differ)"
        )
        problems.append(("warning", "underpowered", "notWorseThanBase", message))
    return problems


def _lone_grader(
    policy: Policy, rule: Rule, instrument: InstrumentSpec
) -> list[tuple[Literal["error", "warning"], str, str, str]]:
    """Whether the battery has the second grader that the policy asks for, as `_sizes` says it."""
    graders, asked = instrument.graders, policy.spec.disagreement.graders is not None
    lone = bool(instrument.opinions) and not instrument.second_opinion
    if asked and lone and not rule.single_grader:
        # No error: an ensemble compares its members, and which grader is one is known where graders are loaded.
        message = (
            f"expected two graders that label the same of {rule.measure}, because 'disagreement' limits how often they "
            f"differ, got {_listed(graders) if graders else 'its plugin'} alone in battery "
            f"{policy.spec.evidence.battery}: unless that is an ensemble, the rule stays inconclusive; add a grader to "
            "the battery, or write 'singleGrader: true' into the rule and so accept the word of one"
        )
        return [("warning", "single_grader", "measure", message)]
    if rule.single_grader and not (asked and lone):
        why = (
            "'disagreement' asks for no second grader"
            if not asked
            else f"{_listed(graders)} must be compared"
            if graders
            else "no grader labels it"
        )
        message = f"'singleGrader' changes nothing about {rule.measure}: {why}; take it out"
        return [("warning", "single_grader_idle", "singleGrader", message)]
    return []


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"


def _close(name: str, known: Collection[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
