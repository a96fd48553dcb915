"""What changed in meaning between two policy sets: stricter, looser, or neither; never what changed in text.

Every key of the schema has an entry in `MEANINGS` that says which direction is stricter, so that a key that is added
later cannot be left out of the comparison. Stricter means: a decision that was denied is denied still, and one that was
allowed may be denied. Looser is the opposite. Neither means that some decisions may turn one way and some the other, or
that nobody can tell. What changes no decision is reported as wording.

Pure: no file, no clock. Keys of signers are compared by name; the key files are not part of a policy's meaning.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import Any

from registry_gate.policy.document import PolicySet
from registry_gate.policy.schema import BreakGlassSpec, Policy


class Direction(StrEnum):
    """Which way a change goes."""

    STRICTER = "stricter"
    LOOSER = "looser"
    NEITHER = "neither"
    WORDING = "wording"


@dataclass(frozen=True, kw_only=True)
class Change:
    """One change.

    Args:
        direction: Which way it goes.
        policy: Name of the policy; None for what holds for all.
        rule: Id of the rule, where a rule changed.
        key: Dotted path of the key, e.g. `spec.rules[].atMost`.
        sentence: What was, what is, for people.
    """

    direction: Direction
    policy: str | None
    rule: str | None
    key: str
    sentence: str

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {**vars(self), "direction": str(self.direction)}


Judge = Callable[[Any, Any], Direction]


def _less(unset: float) -> Judge:
    """Less is stricter; a key that is not set counts as `unset`."""

    def judge(old: Any, new: Any) -> Direction:
        before, after = (unset if value is None else value for value in (old, new))
        return Direction.STRICTER if after < before else Direction.LOOSER

    return judge


def _more(unset: float = 0) -> Judge:
    less = _less(unset)
    return lambda old, new: _opposite(less(old, new))


def _earlier(old: Any, new: Any) -> Direction:
    """An earlier beginning is stricter; one that is not set is that of always."""
    before, after = (
        datetime.min.replace(tzinfo=UTC) if value is None else datetime.fromisoformat(value) for value in (old, new)
    )
    if before == after:
        return Direction.WORDING
    return Direction.STRICTER if after < before else Direction.LOOSER


def _ordered(*loosest_first: Any) -> Judge:
    """The later in the list, the stricter."""

    def judge(old: Any, new: Any) -> Direction:
        return Direction.STRICTER if loosest_first.index(new) > loosest_first.index(old) else Direction.LOOSER

    return judge


def _fewer(old: Any, new: Any) -> Direction:
    """A smaller set is stricter."""
    before, after = set(old or ()), set(new or ())
    if after < before:
        return Direction.STRICTER
    return Direction.LOOSER if after > before else Direction.NEITHER


def _larger(old: Any, new: Any) -> Direction:
    return _opposite(_fewer(old, new))


def _narrower(old: Any, new: Any) -> Direction:
    """Fewer are stricter, unless nobody is asked for at all: that is said of the keys beside."""
    return _fewer(old, new) if old and new else Direction.WORDING


def _age(old: Any, new: Any) -> Direction:
    """A lower age is stricter; one that is not set lets everything count."""
    hours = [
        math.inf if value is None else int(value[:-1]) * (24 if value.endswith("d") else 1) for value in (old, new)
    ]
    if hours[0] == hours[1]:
        return Direction.WORDING
    return Direction.STRICTER if hours[1] < hours[0] else Direction.LOOSER


def _neither(_old: Any, _new: Any) -> Direction:
    return Direction.NEITHER


def _wording(_old: Any, _new: Any) -> Direction:
    return Direction.WORDING


def _opposite(direction: Direction) -> Direction:
    turned = {Direction.STRICTER: Direction.LOOSER, Direction.LOOSER: Direction.STRICTER}
    return turned.get(direction, direction)


_TOGETHER: Judge = _neither
"""Keys that mean something only together; `_governance` and `_rules` compare them as a whole."""

MEANINGS: Mapping[str, Judge] = {
    "apiVersion": _wording,
    "kind": _wording,
    "metadata.name": _wording,
    "metadata.title": _wording,
    "metadata.owner": _wording,
    "metadata.description": _wording,
    "spec.match.any[].models": _TOGETHER,
    "spec.match.any[].aliases": _TOGETHER,
    "spec.match.any[].stages": _TOGETHER,
    "spec.match.any[].workspaces": _TOGETHER,
    "spec.exclude.aliases": _TOGETHER,
    "spec.exclude.models": _TOGETHER,
    "spec.enforcement": _TOGETHER,
    "spec.effectiveFrom": _earlier,
    "spec.subject.formats": _fewer,
    "spec.subject.base": _ordered("optional", "required"),
    "spec.subject.remoteCode": _ordered("allowed", "forbidden"),
    "spec.evidence.battery": _neither,
    "spec.evidence.maxAge": _age,
    "spec.evidence.signedBy": _fewer,
    "spec.evidence.minProbes": _more(),
    "spec.evidence.graderErrors": _ordered("reported", "required"),
    # Nothing ever passes by a run that stopped, and what it fails would have failed in full.
    "spec.evidence.stopEarly": _wording,
    "spec.evidence.labelledPairs": _more(),
    "spec.rules[].id": _TOGETHER,
    "spec.rules[].title": _wording,
    "spec.rules[].measure": _neither,
    "spec.rules[].atMost": _less(unset=1),
    "spec.rules[].notWorseThanBase": _less(unset=1),
    "spec.rules[].zeroTolerance": _larger,
    "spec.rules[].severity": _wording,
    "spec.rules[].controls": _wording,
    "spec.rules[].enforcement": _TOGETHER,
    "spec.rules[].required": _TOGETHER,
    "spec.rules[].effectiveFrom": _earlier,
    # Only lint reads it.
    "spec.rules[].discordance": _wording,
    "spec.rules[].singleGrader": _ordered(True, False),
    "spec.confidence": _more(),
    "spec.disagreement.graders.atMost": _less(unset=2),
    "spec.disagreement.graders.otherwise": _wording,
    "spec.disagreement.instruments": _wording,
    "spec.waivers.approvers": _fewer,
    "spec.waivers.longest": _age,
    "spec.waivers.budget": _less(unset=0),
    "spec.approvals.count": _more(),
    "spec.approvals.from": _narrower,
    "spec.graderAdmission.kappaAtLeast": _more(),
    "spec.graderAdmission.falsePositivesAtMost": _less(unset=1),
    "spec.graderAdmission.falseNegativesAtMost": _less(unset=1),
    "spec.graderAdmission.labelledAtLeast": _more(),
    "spec.graderAdmission.ungradedAtMost": _less(unset=1),
    "spec.graderAdmission.maxAge": _age,
    "spec.graderAdmission.signedBy": _narrower,
    "spec.allowNotes": _ordered(True, False),
    "spec.onPass": _wording,
}
"""By the dotted path of each key of a policy."""

_FORCE = ("dryrun", "warn", "note", "deny")
"""What a breach of a rule does, loosest first."""


def compare(old: PolicySet, new: PolicySet) -> tuple[Change, ...]:
    """Every change from one policy set to another, those that loosen first."""
    changes = [*_of_the_set(old, new)]
    for name in sorted(set(old.policies) | set(new.policies)):
        before, after = old.policies.get(name), new.policies.get(name)
        if before is None and after is not None:
            changes.append(_added(after, old))
        elif after is None and before is not None:
            changes.append(_removed(before, new))
        elif before is not None and after is not None:
            changes += _policies(before, after, old, new)
    order = (Direction.LOOSER, Direction.NEITHER, Direction.STRICTER, Direction.WORDING)
    return tuple(sorted(changes, key=lambda c: (order.index(c.direction), c.policy or "", c.rule or "", c.key)))


def _of_the_set(old: PolicySet, new: PolicySet) -> Iterable[Change]:
    before, after = old.document.spec, new.document.spec
    freed = [alias for alias in after.free_aliases if not _covered((alias,), [(one,) for one in before.free_aliases])]
    bound = [alias for alias in before.free_aliases if not _covered((alias,), [(one,) for one in after.free_aliases])]
    if freed:
        yield _set_change(Direction.LOOSER, "freeAliases", f"{_listed(freed)} may now move without any evidence")
    if bound:
        yield _set_change(Direction.STRICTER, "freeAliases", f"{_listed(bound)} no longer moves freely")
    if before.unmatched != after.unmatched:
        tighter = after.unmatched == "deny"
        yield _set_change(
            Direction.STRICTER if tighter else Direction.LOOSER,
            "unmatched",
            f"a promotion that no policy governs is now {'denied' if tighter else 'allowed'}",
        )
    yield from _break_glass(before.break_glass, after.break_glass)
    names = [{signer.name for signer in spec.signers} for spec in (before, after)]
    # Who signs for a policy is its `signedBy`; lint refuses one that names nobody.
    if names[0] != names[1]:
        yield _set_change(Direction.WORDING, "signers", f"signers were {_listed(names[0])}, are {_listed(names[1])}")
    if old.calibrations != new.calibrations and any(
        policy.spec.grader_admission is not None for policy in new.policies.values()
    ):
        files = {*old.calibrations, *new.calibrations}
        changed = {file for file in files if old.calibrations.get(file) != new.calibrations.get(file)}
        yield _set_change(
            Direction.NEITHER, "calibrations", f"what graders were shown to do changed: {_listed(sorted(changed))}"
        )
    for battery in sorted(set(old.batteries) & set(new.batteries)):
        if old.batteries[battery].digest != new.batteries[battery].digest and _used(battery, old, new):
            yield _set_change(
                Direction.NEITHER,
                "batteries",
                f"battery {battery} measures otherwise than before: evidence of the old one no longer counts",
            )


def _break_glass(before: BreakGlassSpec | None, after: BreakGlassSpec | None) -> Iterable[Change]:
    who = [
        {(role.name, person) for role in spec.roles for person in role.people} if spec is not None else set()
        for spec in (before, after)
    ]
    for direction, pairs, word in (
        (Direction.LOOSER, who[1] - who[0], "may now"),
        (Direction.STRICTER, who[0] - who[1], "may no longer"),
    ):
        if pairs:
            named = _listed(sorted(f"{person} as {role}" for role, person in pairs))
            yield _set_change(direction, "breakGlass.roles", f"{named} {word} override every policy for a short time")
    if before is not None and after is not None and before.longest_delta != after.longest_delta:
        direction = Direction.STRICTER if after.longest_delta < before.longest_delta else Direction.LOOSER
        sentence = f"break-glass lasted at most {before.longest}, may last {after.longest}"
        yield _set_change(direction, "breakGlass.longest", sentence)


def _used(battery: str, *sets: PolicySet) -> bool:
    return any(policy.spec.evidence.battery == battery for one in sets for policy in one.policies.values())


def _set_change(direction: Direction, key: str, sentence: str) -> Change:
    return Change(direction=direction, policy=None, rule=None, key=f"spec.{key}", sentence=sentence)


def _added(policy: Policy, old: PolicySet) -> Change:
    direction, why = _gained(policy, _reach(policy), old)
    return Change(
        direction=direction,
        policy=policy.name,
        rule=None,
        key="",
        sentence=f"a new policy ({_force_of(policy)}): {why}",
    )


def _removed(policy: Policy, new: PolicySet) -> Change:
    direction, why = _lost(policy, _reach(policy), new)
    return Change(direction=direction, policy=policy.name, rule=None, key="", sentence=f"no longer there: {why}")


_Reach = tuple[str, str, str, str]
"""Kind of target, patterns of its workspace, model and name."""


def _reach(policy: Policy) -> set[_Reach]:
    """Every combination of patterns by which a policy governs, exclusions aside."""
    return {
        (kind, workspace, model, name)
        for match in policy.spec.match.any
        for kind, names in (("alias", match.aliases), ("stage", match.stages))
        for workspace in match.workspaces
        for model in match.models
        for name in names
    }


def _covered(patterns: Sequence[str], by: Iterable[Sequence[str]]) -> bool:
    """Whether everything that fits the patterns surely fits others. When it cannot be told it is not covered."""
    return any(all(_within(inner, outer) for inner, outer in zip(patterns, one, strict=True)) for one in by)


def _within(inner: str, outer: str) -> bool:
    if inner == outer or outer == "*":
        return True
    # A star inside another pattern is read as a letter, which `?` and `[...]` would take for one.
    if any(c in inner for c in "*?[") and any(c in outer for c in "?["):
        return False
    return fnmatchcase(inner, outer)


def _gained(policy: Policy, reach: set[_Reach], old: PolicySet) -> tuple[Direction, str]:
    """What follows when targets come under a policy."""
    others = [r for other in old.policies.values() if other.name != policy.name for r in _reach_surely(other)]
    shown = _shown(reach)
    if old.document.spec.unmatched == "allow" or all(_covered(one, others) for one in reach):
        if not policy.enforces:
            return Direction.WORDING, f"it governs {shown}, and only says what it finds"
        return Direction.STRICTER, f"it has a say on {shown} beside what governed before"
    return Direction.NEITHER, f"{shown} was denied where no policy governed it, and is now judged"


def _lost(policy: Policy, reach: set[_Reach], new: PolicySet) -> tuple[Direction, str]:
    """What follows when targets leave a policy."""
    others = [r for other in new.policies.values() if other.name != policy.name for r in _reach_surely(other)]
    shown = _shown(reach)
    if all(_covered(one, others) for one in reach):
        if not policy.enforces:
            return Direction.WORDING, f"it only said what it found of {shown}"
        return Direction.LOOSER, f"{shown} is judged by the other policies alone"
    if new.document.spec.unmatched == "allow":
        return Direction.LOOSER, f"{shown} may now move unchecked where no other policy governs it"
    return Direction.NEITHER, f"{shown} is now denied where no other policy governs it"


def _reach_surely(policy: Policy) -> set[_Reach]:
    """What a policy governs without doubt: nothing where it excludes something."""
    excluded = policy.spec.exclude
    return set() if excluded.aliases or excluded.models else _reach(policy)


def _shown(reach: Iterable[_Reach]) -> str:
    found = sorted({f"{kind} {name} of {model}" for kind, _, model, name in reach})
    return _listed(found[:4]) + (f" and {len(found) - 4} more" if len(found) > 4 else "")


def _policies(old: Policy, new: Policy, before: PolicySet, after: PolicySet) -> Iterable[Change]:
    yield from _governance(old, new, before, after)
    yield from _rules(old, new)
    for change in _keys(old.name, None, "", _plain(old), _plain(new)):
        # What only says what it finds is stricter or looser for nobody.
        yield change if old.enforces or new.enforces else replace(change, direction=Direction.WORDING)


def _plain(policy: Policy) -> dict[str, Any]:
    """What is compared key by key: all but what means something only together."""
    said = policy.model_dump(mode="json", by_alias=True)
    for key in ("match", "exclude", "enforcement", "rules"):
        del said["spec"][key]
    graders = said["spec"]["disagreement"]["graders"]
    said["spec"]["disagreement"]["graders"] = {"atMost": graders["atMost"] if graders else None}
    said["spec"]["waivers"] = said["spec"]["waivers"] or {"approvers": [], "longest": "0h", "budget": None}
    said["spec"]["approvals"] = said["spec"]["approvals"] or {"count": 0, "from": []}
    said["spec"]["graderAdmission"] = said["spec"]["graderAdmission"] or dict(_NO_ADMISSION)
    return said


_NO_ADMISSION: Mapping[str, Any] = {
    "kappaAtLeast": None,
    "falsePositivesAtMost": None,
    "falseNegativesAtMost": None,
    "labelledAtLeast": None,
    "ungradedAtMost": None,
    "maxAge": None,
    "signedBy": [],
}


def _keys(policy: str, rule: str | None, path: str, old: Any, new: Any) -> Iterable[Change]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in old:
            yield from _keys(policy, rule, f"{path}.{key}" if path else key, old[key], new[key])
        return
    if isinstance(old, list):
        old, new = sorted(old), sorted(new)
    if old != new:
        yield Change(
            direction=MEANINGS[path](old, new),
            policy=policy,
            rule=rule,
            key=path,
            # The whole path: `count` alone would not say whose. Every policy has a spec, and the rule stands beside.
            sentence=f"{path.removeprefix('spec.').removeprefix('rules[].')} was {_value(old)}, is {_value(new)}",
        )


def _governance(old: Policy, new: Policy, before: PolicySet, after: PolicySet) -> Iterable[Change]:
    """Which targets a policy governs."""
    had, has = _reach(old), _reach(new)
    gained = {one for one in has if not _covered(one, had)}
    lost = {one for one in had if not _covered(one, has)}
    for reach, judged in ((gained, _gained(new, gained, before)), (lost, _lost(old, lost, after))):
        if reach:
            direction, why = judged
            yield Change(
                direction=direction,
                policy=old.name,
                rule=None,
                key="spec.match",
                sentence=f"{'governs more' if reach is gained else 'governs less'}: {why}",
            )
    for key in ("aliases", "models"):
        excluded = [set(getattr(one.spec.exclude, key)) for one in (old, new)]
        left = {name for name in excluded[1] if not _covered((name,), [(one,) for one in excluded[0]])}
        back = {name for name in excluded[0] if not _covered((name,), [(one,) for one in excluded[1]])}
        if left:
            # Whether another policy takes them over depends on names; where none does, `unmatched` decides.
            sentence = f"no longer governs the {key} {_listed(left)}"
            yield Change(
                direction=Direction.LOOSER, policy=old.name, rule=None, key=f"spec.exclude.{key}", sentence=sentence
            )
        if back:
            sentence = f"governs the {key} {_listed(back)} again"
            yield Change(
                direction=Direction.STRICTER, policy=old.name, rule=None, key=f"spec.exclude.{key}", sentence=sentence
            )


def _rules(old: Policy, new: Policy) -> Iterable[Change]:
    """Rules by id, each with what a breach of it does."""
    before = {rule.id: rule for rule in old.spec.rules}
    after = {rule.id: rule for rule in new.spec.rules}
    for rule_id in sorted(set(before) | set(after)):
        was, now = before.get(rule_id), after.get(rule_id)
        forces = [None if one is None else _force(policy, one) for policy, one in ((old, was), (new, now))]

        def change(direction: Direction, sentence: str, rule_id: str = rule_id, key: str = "") -> Change:
            return Change(
                direction=direction, policy=old.name, rule=rule_id, key=f"spec.rules[]{key}", sentence=sentence
            )

        if was is None and now is not None:
            direction = Direction.STRICTER if forces[1] == "deny" else Direction.WORDING
            yield change(direction, f"a new rule ({forces[1]}): {now.title}")
        elif now is None and was is not None:
            direction = Direction.LOOSER if forces[0] == "deny" else Direction.WORDING
            yield change(direction, f"no longer there ({forces[0]}): {was.title}")
        elif was is not None and now is not None:
            if forces[0] != forces[1]:
                judged = _ordered(*_FORCE)(forces[0], forces[1])
                # Between what never denies, nothing is decided otherwise.
                direction = judged if "deny" in forces else Direction.WORDING
                yield change(direction, f"a breach was {forces[0]}, is {forces[1]}", key=".enforcement")
            said = [one.model_dump(mode="json", by_alias=True) for one in (was, now)]
            for one in said:
                for key in ("id", "enforcement", "required"):
                    del one[key]
            for found in _keys(old.name, rule_id, "spec.rules[]", said[0], said[1]):
                # What only ever told is looser or stricter for nobody.
                silent = forces[0] != "deny" and forces[1] != "deny"
                yield change(Direction.WORDING if silent else found.direction, found.sentence, key=found.key[12:])


def _force(policy: Policy, rule: Any) -> str:
    enforcement = policy.spec.enforcement_of(rule)
    if enforcement == "deny" and not rule.required and policy.spec.allow_notes:
        return "note"
    return str(enforcement)


def _force_of(policy: Policy) -> str:
    return str(policy.spec.enforcement)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"


def _value(value: Any) -> str:
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return _listed(str(one) for one in value)
    return f"{value:g}" if isinstance(value, float) else str(value)
