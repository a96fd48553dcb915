"""Find names in a policy test that the policy set does not know: such a case would test something else than it says.

A waiver for a policy that does not exist, or by a person whom nobody knows, changes no decision; the denial that its
case expects would come for another reason than its author thinks. A known person who may not is a fair test, and so is
a grant that nobody can give because the policy or the set grants none. What a stranger signed verifies nowhere: a case
says so by `unverified`.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator

from registry_gate.battery import Battery
from registry_gate.documents import Problem, RawDocument
from registry_gate.policy.document import PolicySet
from registry_gate.policy.schema import CaseSpec

_STRANGER = "; what somebody else signed never verifies: for that write 'unverified: CAUSE'"


def unknown_names(policy_set: PolicySet, spec: CaseSpec, raw: RawDocument) -> list[Problem]:
    """Every name under waivers, approvals, breakGlass and calibrations that stands for nothing, in file order."""
    return [
        *_in_waivers(policy_set, spec, raw),
        *_in_approvals(policy_set, spec, raw),
        *_in_break_glass(policy_set, spec, raw),
        *_in_calibrations(policy_set, spec, raw),
    ]


def _in_waivers(policy_set: PolicySet, spec: CaseSpec, raw: RawDocument) -> Iterator[Problem]:
    people = _people(policy_set)
    for number, waiver in enumerate(spec.waivers):
        place: tuple[str | int, ...] = ("spec", "waivers", number)
        policy = policy_set.policies.get(waiver.policy)
        if policy is None:
            yield raw.problem((*place, "policy"), _unknown("a policy of the set", policy_set.policies, waiver.policy))
            continue
        rules = [rule.id for rule in policy.spec.rules]
        for index, rule in enumerate(waiver.rules):
            if rule not in rules:
                yield raw.problem((*place, "rules", index), _unknown(f"a rule of policy {policy.name}", rules, rule))
        if policy.spec.waivers is not None and waiver.unverified is None and waiver.approver not in people:
            yield raw.problem((*place, "approver"), _person(people, waiver.approver))


def _in_approvals(policy_set: PolicySet, spec: CaseSpec, raw: RawDocument) -> Iterator[Problem]:
    people = _people(policy_set)
    for number, approval in enumerate(spec.approvals):
        place: tuple[str | int, ...] = ("spec", "approvals", number)
        policy = policy_set.policies.get(approval.policy)
        if policy is None:
            yield raw.problem((*place, "policy"), _unknown("a policy of the set", policy_set.policies, approval.policy))
        elif policy.spec.approvals is not None and approval.unverified is None and approval.approver not in people:
            yield raw.problem((*place, "approver"), _person(people, approval.approver))


def _in_break_glass(policy_set: PolicySet, spec: CaseSpec, raw: RawDocument) -> Iterator[Problem]:
    allowed = policy_set.break_glass
    if allowed is None:
        return
    people = _people(policy_set)
    roles = [role.name for role in allowed.roles]
    for number, opened in enumerate(spec.break_glass):
        place: tuple[str | int, ...] = ("spec", "breakGlass", number)
        if opened.role not in roles:
            message = _unknown("a role under 'breakGlass' of policy-set.yaml", roles, opened.role)
            yield raw.problem((*place, "role"), message)
        if opened.unverified is None and opened.person not in people:
            yield raw.problem((*place, "person"), _person(people, opened.person))


def _in_calibrations(policy_set: PolicySet, spec: CaseSpec, raw: RawDocument) -> Iterator[Problem]:
    graders = {name for battery in policy_set.batteries.values() for name in graders_of(battery)}
    signers = [signer.name for signer in policy_set.document.spec.signers]
    for number, one in enumerate(spec.calibrations or ()):
        place: tuple[str | int, ...] = ("spec", "calibrations", number)
        if one.grader not in graders:
            yield raw.problem((*place, "grader"), _unknown("a grader of a battery", graders, one.grader))
        # Who signs where a case says nothing stands for whoever may.
        if "signed_by" not in one.model_fields_set or one.unverified is not None:
            continue
        for index, signer in enumerate(one.signed_by):
            if signer not in signers:
                message = _unknown("a signer of policy-set.yaml", signers, signer) + _STRANGER
                yield raw.problem((*place, "signedBy", index), message)


def graders_of(battery: Battery) -> list[str]:
    """Names of the graders of a battery; a name that stands for one where it has none."""
    return sorted({name for one in battery.spec.instruments for name in one.graders}) or ["case"]


def _people(policy_set: PolicySet) -> list[str]:
    return [person.name for person in policy_set.document.spec.people]


def _person(people: Collection[str], name: str) -> str:
    return _unknown("somebody under 'people' of policy-set.yaml", people, name) + _STRANGER


def _unknown(what: str, known: Collection[str], name: str) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return f"expected {what} ({', '.join(sorted(known)) or 'none there'}), got {name!r}{hint}"
