"""Find policies that get in each other's way: rules that can never decide, and demands that no form can meet together.

Which targets two policies share is found by names that stand for their patterns (`kids-*` by `kids-x`), so a target
that only two clever patterns share can be missed. What is found are remarks; every policy that covers a target must
allow.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from registry_gate.documents import RawDocument
from registry_gate.policy.names import matches
from registry_gate.policy.schema import Policy, PolicySetFile, Rule
from registry_gate.promotion import PROMOTED_STAGES, Target, TargetKind

MOST_COMPARED = 40_000
"""Most policies times targets that are compared; more would take longer than reading them."""

_CLASS = re.compile(r"\[!?(.)[^\]]*\]")
_LONG_AGO = datetime.min.replace(tzinfo=UTC)
_NAMES = ("champion", "x")

Found = tuple[RawDocument, str, Sequence[str | int], str]
"""Document, code, place in it, sentence."""


@dataclass(frozen=True)
class _One:
    """A policy with its document and the numbers of the targets that it governs."""

    policy: Policy
    raw: RawDocument
    governs: frozenset[int]


def overlaps(document: PolicySetFile, policies: Sequence[tuple[Policy, RawDocument]]) -> Iterator[Found]:
    """Everything by which policies of one set get in each other's way.

    Args:
        document: `policy-set.yaml`.
        policies: All policies of the set, with their documents.
    """
    for policy, raw in policies:
        yield from _free(document, policy, raw)
    targets = _targets([policy for policy, _ in policies])
    if len(targets) * len(policies) > MOST_COMPARED:
        policy, raw = policies[0]
        yield raw, "not_compared", ("metadata",), "too many policies and patterns to look for rules that never decide"
        return
    ones = [
        _One(policy, raw, frozenset(n for n, target in enumerate(targets) if policy.governs(target)))
        for policy, raw in policies
    ]
    for number, one in enumerate(ones):
        yield from _never_deciding(one, ones)
        for other in ones[:number]:
            shared = one.governs & other.governs
            if shared:
                yield from _apart(one, other, targets[min(shared)])


def _free(document: PolicySetFile, policy: Policy, raw: RawDocument) -> Iterator[Found]:
    """Aliases that a policy names one by one, and the set leaves free."""
    for number, match in enumerate(policy.spec.match.any):
        for index, alias in enumerate(match.aliases):
            if not _is_pattern(alias) and matches(alias, document.spec.free_aliases):
                message = (
                    f"alias {alias} is free by policy-set.yaml, so this policy never governs it: take it off one list"
                )
                yield raw, "free_target", ("spec", "match", "any", number, "aliases", index), message


def _never_deciding(one: _One, ones: Sequence[_One]) -> Iterator[Found]:
    """Rules of which another demands at least as much, wherever they hold."""
    for number, rule in enumerate(one.policy.spec.rules):
        for other in ones:
            same = other is one
            if not same and not (one.governs and one.governs <= other.governs):
                continue
            for index, stricter in enumerate(other.policy.spec.rules):
                if same and index == number:
                    continue
                if not _demands_more(other.policy, stricter, one.policy, rule):
                    continue
                equal = _demands_more(one.policy, rule, other.policy, stricter)
                if equal and not _comes_later(one, number, other, index, ones):
                    continue  # of two that say the same, the later one is told
                where = (
                    "the same policy" if same else f"policy {other.policy.name}, which governs all that this one does,"
                )
                word = "the same" if equal else "more"
                advice = "take it out" if same else f"take it out, or exclude these models from {other.policy.name}"
                message = (
                    f"rule {rule.id} never decides: {stricter.id} of {where} demands {word} of {rule.measure} "
                    f"({_demand(stricter)}): {advice}"
                )
                yield one.raw, "rule_never_decides", ("spec", "rules", number), message
                break
            else:
                continue
            break


def _comes_later(one: _One, number: int, other: _One, index: int, ones: Sequence[_One]) -> bool:
    if one is other:
        return number > index
    # Two that govern the same say the same to each other; one that governs less is always the one to be told.
    return one.governs != other.governs or ones.index(one) > ones.index(other)


def _demands_more(policy: Policy, rule: Rule, than: Policy, weaker: Rule) -> bool:
    """Whether a rule denies whenever another one does, as far as files can tell."""
    if rule.measure != weaker.measure or policy.spec.evidence.battery != than.spec.evidence.battery:
        return False
    if not policy.spec.enforces(rule) or policy.spec.confidence < than.spec.confidence:
        return False
    begins = policy.spec.effective_from_of(rule) or _LONG_AGO
    if begins > (than.spec.effective_from_of(weaker) or _LONG_AGO):
        return False
    return (
        _at_least(rule.at_most, weaker.at_most)
        and _at_least(rule.not_worse_than_base, weaker.not_worse_than_base)
        and set(weaker.zero_tolerance) <= set(rule.zero_tolerance)
        and (weaker.single_grader or not rule.single_grader)
    )


def _at_least(limit: float | None, weaker: float | None) -> bool:
    return weaker is None or (limit is not None and limit <= weaker)


def _demand(rule: Rule) -> str:
    parts = []
    if rule.at_most is not None:
        parts.append(f"at most {100 * rule.at_most:g} %")
    if rule.not_worse_than_base is not None:
        parts.append(f"not worse than its base by {100 * rule.not_worse_than_base:g} pp")
    if rule.zero_tolerance:
        parts.append(f"none in {', '.join(rule.zero_tolerance)}")
    return ", ".join(parts)


def _apart(one: _One, other: _One, target: Target) -> Iterator[Found]:
    """Demands of two policies on one target that no form, or no one assessment, can meet together."""
    mine, theirs = one.policy.spec, other.policy.spec
    shared = f"both govern {target}"
    if not set(mine.subject.formats) & set(theirs.subject.formats):
        message = (
            f"no form can pass this policy and {other.policy.name}: {shared}, and accept "
            f"{_listed(mine.subject.formats)} and {_listed(theirs.subject.formats)}"
        )
        yield one.raw, "policies_contradict", ("spec", "subject", "formats"), message
    same = mine.evidence.battery == theirs.evidence.battery
    if same and not set(mine.evidence.signed_by) & set(theirs.evidence.signed_by):
        message = (
            f"this policy and {other.policy.name} never count the same evidence: {shared}, and one wants it signed by "
            f"{_listed(mine.evidence.signed_by)}, the other by {_listed(theirs.evidence.signed_by)}"
        )
        yield one.raw, "policies_contradict", ("spec", "evidence", "signedBy"), message
    name = mine.evidence.battery.partition("@")[0]
    if not same and name == theirs.evidence.battery.partition("@")[0]:
        message = (
            f"this policy wants {mine.evidence.battery} and {other.policy.name} {theirs.evidence.battery}: {shared}, "
            "so each form is measured with both versions"
        )
        yield one.raw, "two_versions_of_a_battery", ("spec", "evidence", "battery"), message


def _targets(policies: Sequence[Policy]) -> list[Target]:
    """Targets that stand for every pattern that a policy has."""
    models: dict[str, None] = {"x": None}
    aliases = dict.fromkeys(_NAMES)
    workspaces = {"default": None}
    for policy in policies:
        for match in policy.spec.match.any:
            models |= dict.fromkeys(_stand_ins(match.models))
            aliases |= dict.fromkeys(_stand_ins(match.aliases))
            workspaces |= dict.fromkeys(_stand_ins(match.workspaces))
        models |= dict.fromkeys(_stand_ins(policy.spec.exclude.models))
        aliases |= dict.fromkeys(_stand_ins(policy.spec.exclude.aliases))
    if len(models) * (len(aliases) + len(PROMOTED_STAGES)) * len(workspaces) * len(policies) > MOST_COMPARED:
        # Aliases and workspaces one at a time: fewer targets, and hardly ever another answer.
        places = [("default", alias) for alias in aliases] + [(workspace, "champion") for workspace in workspaces]
    else:
        places = [(workspace, alias) for workspace in workspaces for alias in aliases]
    return [
        *(
            Target(kind=TargetKind.ALIAS, model=model, name=alias, workspace=workspace)
            for workspace, alias in dict.fromkeys(places)
            for model in models
        ),
        *(
            Target(kind=TargetKind.STAGE, model=model, name=stage, workspace=workspace)
            for workspace in workspaces
            for stage in PROMOTED_STAGES
            for model in models
        ),
    ]


def _stand_ins(patterns: Sequence[str]) -> list[str]:
    return [_CLASS.sub(r"\1", pattern).replace("*", "x").replace("?", "x") for pattern in patterns]


def _is_pattern(name: str) -> bool:
    return any(character in name for character in "*?[")


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names)
