"""Say in plain sentences what policies demand: of everything, or of one model version on its way to one target.

Pure. What can be proved comes from `plan`, what is decided from `decide`; nothing here judges.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from registry_gate.battery import Battery
from registry_gate.decision import Decision
from registry_gate.policy.document import Governance, PolicySet
from registry_gate.policy.plan import plan_policy, sentences
from registry_gate.policy.schema import Match, Policy, Rule
from registry_gate.promotion import Target

_BREACH = {
    "deny": "Otherwise the promotion is denied.",
    "note": "Otherwise the decision carries a note.",
    "warn": "Otherwise whoever asks is told; nothing is denied.",
    "dryrun": "Otherwise it is recorded; nothing is denied.",
}


def explain_set(policy_set: PolicySet) -> list[str]:
    """What holds for all policies, one sentence a line."""
    spec = policy_set.document.spec
    said = [f"Policy set {policy_set.name}, digest {policy_set.digest}."]
    for name, policy in policy_set.policies.items():
        left = ", but leaves some to others" if policy.spec.exclude.models or policy.spec.exclude.aliases else ""
        said.append(f"Policy {name} ({policy.metadata.title}) governs {governed(policy)}{left}.")
    if spec.free_aliases:
        said.append(
            f"The aliases {_all(spec.free_aliases)} move freely, without evidence; exactly as spelt here, and whatever "
            "policies say."
        )
    said.append(
        "A promotion that no policy governs is "
        + ("denied." if spec.unmatched == "deny" else "ALLOWED without any evidence.")
    )
    allowed = spec.break_glass
    if allowed is None:
        said.append("Nobody may override the policies in an emergency (no breakGlass).")
    else:
        roles = "; ".join(f"{_all(role.people, 'or')} as {role.name}" for role in allowed.roles)
        said.append(
            f"In an emergency, {roles} may override every policy for at most {_age(allowed.longest)} (break-glass): "
            "signed, told in every decision meanwhile, and never grounds for a rollback."
        )
    said.append("Not governed at all: other stages than Staging and Production, prompts, and reading or downloading.")
    return said


def explain_policy(policy: Policy, batteries: Mapping[str, Battery]) -> list[str]:
    """What one policy governs, demands and does, one sentence a line; indented lines say more of the one above.

    Raises:
        PolicyError: Its battery does not exist or does not measure what a rule reads.
    """
    spec = policy.spec
    evidence, subject = spec.evidence, spec.subject
    said = [
        f"{policy.metadata.title} (policy {policy.name}, owner {policy.metadata.owner})",
        f"Governs {governed(policy)}.",
    ]
    left = [*(f"alias {name}" for name in spec.exclude.aliases), *(f"model {name}" for name in spec.exclude.models)]
    if left:
        said.append(f"Leaves to others, exactly as spelt: {_all(left)}.")
    said.append(
        f"The model must be saved as {_all(subject.formats, 'or')}, "
        + ("name the base that it was adapted from" if subject.base == "required" else "with or without a base")
        + (" and need no code of its own to load." if subject.remote_code == "forbidden" else ".")
    )
    said.append(
        f"Exactly these bytes must have been assessed with battery {evidence.battery}, at most "
        f"{_age(evidence.max_age)} ago, on at least {evidence.min_probes} probes a measure, signed by "
        f"{_all(evidence.signed_by, 'or')}."
    )
    said.append(
        "An instrument may end early once a required rule is proved broken, where every policy of the model on this "
        "battery says so (stopEarly): that only ever denies, and before anything passes the form is assessed in full."
        if evidence.stop_early
        else "Every form is assessed in full, even if it is clearly failing early on (no stopEarly)."
    )
    if evidence.labelled_pairs is not None:
        said.append(
            f"People must have labelled {evidence.labelled_pairs} probes of each graded measure, in both arms "
            "(`registry-gate label`)."
        )
    if evidence.grader_errors == "required":
        said.append("Limits are widened by the errors that graders may make, so labels of people are needed.")
    said.append(
        f"Every limit holds with {100 * spec.confidence:g} % certainty, one-sided; what the data cannot tell is "
        "inconclusive and denies."
    )
    said.append("It requires all of this:")
    for rule, plan in zip(spec.rules, plan_policy(policy, batteries), strict=True):
        said.append(f"  {rule.id}: {rule.title} ({rule.measure}, {plan.probes} probes, severity {rule.severity}).")
        said += [f"    {sentence[0].upper()}{sentence[1:]}." for sentence in sentences(plan)]
        said.append(f"    {_breach(policy, rule)}")
        if rule.controls:
            said.append(f"    Evidence for {_all(rule.controls)}; no rule proves that a control is met.")
    limit = spec.disagreement.graders
    said.append(
        f"Two graders may label at most {100 * limit.at_most:g} % of the answers differently; beyond that a measure is "
        "inconclusive, and so is one that a single grader labelled, unless its rule says singleGrader"
        + (f" ({_all(alone)} here)." if (alone := [rule.id for rule in spec.rules if rule.single_grader]) else ".")
        if limit is not None
        else "One grader may stand alone: nobody checks it."
    )
    admission = spec.grader_admission
    if admission is not None:
        missed = admission.false_negatives_at_most
        said.append(
            f"Each grader that votes must have been calibrated at most {_age(admission.max_age)} ago, signed by "
            f"{_all(admission.signed_by, 'or')}, on at least {admission.labelled_at_least} labelled answers in every "
            f"source: kappa at least {admission.kappa_at_least:g}, false positives at most "
            f"{100 * admission.false_positives_at_most:g} %"
            + (f", false negatives at most {100 * missed:g} %" if missed is not None else "")
            + f", at most {100 * admission.ungraded_at_most:g} % left ungraded; limits count, not points."
        )
        said.append("Calibrations are needed of these graders:")
        said += [f"  {sentence}" for sentence in _calibrated(policy, batteries[evidence.battery])]
    else:
        said.append("No grader needs a calibration to vote (no graderAdmission).")
    said.append("One measure that became worse and another that became better, both beyond their margins: conflict.")
    if not spec.allow_notes:
        said.append("A note denies too.")
    waivers = spec.waivers
    said.append(
        "Nobody may waive a rule."
        if waivers is None
        else f"{_all(waivers.approvers, 'or')} may waive a rule for one form, for somebody else and at most "
        f"{_age(waivers.longest)}; at most {waivers.budget} waivers count at one moment."
    )
    approvals = spec.approvals
    if approvals is not None:
        said.append(
            f"Then {approvals.count} of {_all(approvals.approvers)} must approve, for exactly these bytes and this "
            "policy as it is written; whoever asks for the promotion does not count."
        )
    said.append("Never waived by anybody: what is invalid (not measured, tampered with, unreadable) or stale.")
    return said


def explain_battery(battery: Battery) -> list[str]:
    """What one battery measures, on how many probes, by which graders and in which categories, one measure a line."""
    title = f" ({battery.metadata.title})" if battery.metadata.title else ""
    said = [f"Battery {battery.id}{title} measures these shares of bad answers:"]
    for one in battery.spec.instruments:
        graded = f"labelled by {_all(one.graders)}" if one.graders else "counted without a grader"
        categories = _all(f"{name} ({size} probes)" for name, size in one.categories.items())
        declared = f"; categories for zeroTolerance: {categories}" if one.categories else ""
        title = f" ({one.title})" if one.title else ""
        said.append(f"  {one.measure}{title}: {one.size} probes, {graded}{declared}.")
    return said


def _calibrated(policy: Policy, battery: Battery) -> list[str]:
    """Which graders need a calibration, for which measures that the policy reads."""
    read = {rule.measure for rule in policy.spec.rules}
    measures: dict[tuple[str, ...], list[str]] = {}
    for one in battery.spec.instruments:
        if one.measure in read:
            measures.setdefault(one.graders, []).append(one.measure)
    said = []
    for graders, named in measures.items():
        if not graders:
            said.append(f"For {_all(named)}: no grader, so no calibration.")
            continue
        first, *others = graders
        # On which axis each is a battery does not say; only in which order they come.
        more = (
            f", and of {_all(others)} each that is the first of them on its axis (what it grades, such as refusal or "
            "harm): a second one only checks the first"
        )
        said.append(f"For {_all(named)}: {first}{more if others else ''}.")
    return said


def explain_version(
    version: str, target: Target, governance: Governance, decision: Decision | None, batteries: Mapping[str, Battery]
) -> list[str]:
    """Which policies apply to one version on its way to one target, what is known of it, and what to do next.

    Args:
        version: As people write it, `models:/name/7`.
        target: What it would come to be.
        governance: Who has a say on the target.
        decision: What `decide` says of the newest evidence; None where there is none.
        batteries: Batteries that exist, by id.
    """
    said = [f"{version} as {target}"]
    if governance.free is not None:
        return [*said, f"Free by the policy set ({governance.free}): it moves without evidence."]
    if not governance.policies:
        outcome = "always denied" if governance.unmatched == "deny" else "allowed unchecked"
        return [*said, f"No policy governs this target: {outcome}."]
    for policy in governance.policies:
        measures = _all(sorted({rule.measure for rule in policy.spec.rules}))
        said.append(f"Policy {policy.name} applies: battery {policy.spec.evidence.battery}, {measures}.")
    if decision is None:
        said.append("Known: nothing. No evidence of this version is in the ledger, so it would be denied.")
        said += [f"Next: registry-gate assess {version} --wait", f"Then: {_promote(version, target)}"]
        return said
    said.append(
        f"Known, of the form {decision.form_digest} as it was assessed: would be "
        f"{'allowed' if decision.allowed else 'denied'} (verdict {decision.verdict})."
    )
    for reason in decision.reasons:
        whose = f"[{reason.policy}] " if reason.policy else ""
        said.append(f"  {'blocks' if reason.blocking else 'noted'}: {whose}{reason.message}")
    if decision.allowed:
        if decision.valid_until is not None:
            said.append(f"This holds until {decision.valid_until:%Y-%m-%d %H:%M} UTC.")
        said.append(f"Next: {_promote(version, target)} (the server reads the bytes again before it allows)")
    else:
        fixes = dict.fromkeys(reason.fix for reason in decision.reasons if reason.blocking and reason.fix)
        said += [f"Next: {fix}" for fix in fixes]
        said += [f"Missing: an assessment with {name}" for name in decision.assessments_needed if name in batteries]
        if decision.assessments_needed:
            said.append(f"Next: registry-gate assess {version} --wait")
    return said


def governed(policy: Policy) -> str:
    """The targets of a policy, in words."""
    return "; and ".join(_match(match) for match in policy.spec.match.any)


def _match(match: Match) -> str:
    parts = []
    if match.aliases:
        parts.append("every alias" if "*" in match.aliases else f"the aliases {_all(match.aliases)}")
    if match.stages:
        every = "*" in match.stages or len(set(match.stages)) == 2
        parts.append("the stages Staging and Production" if every else f"the stage {_all(match.stages)}")
    models = "every model" if "*" in match.models else f"models named {_all(match.models, 'or')}"
    where = "" if "*" in match.workspaces else f" in the workspaces {_all(match.workspaces)}"
    return f"{' and '.join(parts)} of {models}{where}"


def _breach(policy: Policy, rule: Rule) -> str:
    force = policy.spec.enforcement_of(rule)
    said = _BREACH["note" if force == "deny" and not rule.required else force]
    begins = policy.spec.effective_from_of(rule)
    return (
        said
        if begins is None
        else f"From {begins.isoformat()} on: {said[0].lower()}{said[1:]} Until then it only warns."
    )


def _promote(version: str, target: Target) -> str:
    return f'registry-gate promote {version} --{target.kind} "{target.name}" --wait'


def _age(text: str) -> str:
    unit = "day" if text.endswith("d") else "hour"
    return f"{int(text[:-1])} {unit}{'' if int(text[:-1]) == 1 else 's'}"


def _all(names: Iterable[str], word: str = "and") -> str:
    listed = list(names)
    return listed[0] if len(listed) == 1 else f"{', '.join(listed[:-1])} {word} {listed[-1]}" if listed else "none"
