"""Judge whether what a promoted name means now is what the gate allowed: pointer, ledger, signature and bytes.

Pure: no clock, network, file or database. `verify` asks about one name, `reconcile` about all of them; both read, this
compares. Someone with the database's password can write any row; they cannot write a signature.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from registry_gate.errors import EvidenceError
from registry_gate.evidence.decisions import SignedDecision, verify_decision
from registry_gate.form import FormManifest
from registry_gate.ledger import RecordedDecision
from registry_gate.ledger.chain import Entry
from registry_gate.policy.inputs import UnreadableForm
from registry_gate.promotion import ModelVersionRef, Target, TargetKind


class Severity(StrEnum):
    """What a finding says about the name, worst first."""

    INTEGRITY = "integrity"
    EXPIRED = "expired"
    UNDECIDED = "undecided"
    NOTE = "note"


@dataclass(frozen=True, kw_only=True)
class Pointer:
    """What a promoted name means now.

    Args:
        target: The name.
        number: The version that it names.
        version: That version's row; None when there is no such version.
    """

    target: Target
    number: int
    version: ModelVersionRef | None


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that does not hold, or that somebody should know.

    Args:
        code: `ungoverned`, `mismatched`, `changed`, `forged`, `unsigned`, `expired`, `unreadable`, `free_before`,
            `denied_today`, `rollback` or `moving`.
        severity: How bad it is.
        message: What was expected and what is there.
    """

    code: str
    severity: Severity
    message: str


@dataclass(frozen=True, kw_only=True)
class Change:
    """The last thing that the audit chain says about a name.

    Args:
        seq: Number of the audit entry.
        at: When.
        body: The allowed decision; None when the name was removed.
        text: The body as the chain keeps it.
        removed_by: What removed it, in words; None when it was allowed.
    """

    seq: int
    at: str
    body: Mapping[str, Any] | None
    text: str = field(repr=False)
    removed_by: str | None = None

    @property
    def decision_id(self) -> str | None:
        """Id of the allowed decision."""
        return None if self.body is None else str(self.body["id"])


class AuditView:
    """What the audit chain says that names mean, built entry by entry, oldest first.

    Args:
        models: `(workspace, model)` to follow; None follows all.
    """

    def __init__(self, models: set[tuple[str, str]] | None = None) -> None:
        self._models = models
        self._of_model: dict[tuple[str, str], dict[tuple[Target, int | None], Change]] = {}
        self.seq = 0
        self.touched: set[tuple[str, str]] = set()

    def visit(self, entry: Entry) -> None:
        """Take in one entry."""
        self.seq = entry.seq
        if entry.event == "decision":
            # Looked for in the text first: most of a long chain may be denials.
            if '"decision":"allowed"' in entry.body:
                self._allowed(entry, json.loads(entry.body))
        elif entry.event == "demotion":
            self._demoted(entry, json.loads(entry.body))

    def last_change(self, target: Target, version: int) -> Change | None:
        """The last change of an alias, or of a version's being in a stage. None when there never was one."""
        changes = self._of_model.get((target.workspace, target.model), {})
        return changes.get((target, None if target.kind is TargetKind.ALIAS else version))

    def _follow(self, workspace: str, model: str) -> dict[tuple[Target, int | None], Change] | None:
        key = (workspace, model)
        if self._models is not None and key not in self._models:
            return None
        self.touched.add(key)
        return self._of_model.setdefault(key, {})

    def _allowed(self, entry: Entry, body: dict[str, Any]) -> None:
        if body.get("decision") != "allowed":
            return
        target, number = target_of(body), int(body["version"]["version"])
        renamed_from = str(body["version"]["name"])
        if renamed_from != target.model:
            # Nothing is known any more about the name that it had.
            self.touched.add((target.workspace, renamed_from))
            self._of_model.pop((target.workspace, renamed_from), None)
        changes = self._follow(target.workspace, target.model)
        if changes is None:
            return
        change = Change(seq=entry.seq, at=entry.at, body=body, text=entry.body)
        if target.kind is TargetKind.ALIAS:
            changes[(target, None)] = change
            return
        # A version is in one stage at a time.
        for other, version in list(changes):
            if version == number and other != target:
                changes[(other, version)] = _removal(entry, f"moved to {target.name}")
        changes[(target, number)] = change

    def _demoted(self, entry: Entry, body: dict[str, Any]) -> None:
        model, workspace = str(body.get("model")), str(body.get("workspace", "default"))
        changes = self._follow(workspace, model)
        if changes is None:
            return
        operation = str(body.get("operation"))
        actor = body.get("actor")
        by = actor.get("name") if isinstance(actor, dict) else actor
        removal = _removal(entry, f"{operation} by {by}")
        version = int(body["version"]) if str(body.get("version", "")).isdecimal() else None
        for (target, staged), change in list(changes.items()):
            means = staged if staged is not None else change.body and int(change.body["version"]["version"])
            if (
                operation == "delete_registered_model"
                or (operation == "delete_model_version" and means == version)
                or (operation == "transition_model_version_stage" and staged is not None and staged == version)
                or (
                    operation == "delete_registered_model_alias"
                    and target.kind is TargetKind.ALIAS
                    and target.name == body.get("alias")
                )
            ):
                changes[(target, staged)] = removal


@dataclass(frozen=True, kw_only=True)
class Override:
    """One promotion that break-glass let through although policies denied it.

    Args:
        break_glass: Id of the opening.
        decision_id: The decision.
        at: When.
        target: The name.
        version: The version that it came to mean.
        actor: Who asked.
        remains: Whether the name still means that, and by this decision.
    """

    break_glass: str
    decision_id: str
    at: str
    target: Target
    version: int
    actor: str
    remains: bool

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {**vars(self), "target": str(self.target)}


class Overrides:
    """What break-glass let through, and what remains of it, built from the audit chain, oldest entry first."""

    def __init__(self) -> None:
        self._view = AuditView()
        self._found: list[tuple[str, dict[str, Any]]] = []

    def visit(self, entry: Entry) -> None:
        """Take in one entry."""
        self._view.visit(entry)
        # Looked for in the text first: most of a long chain has nothing to do with it.
        if entry.event == "decision" and '"break_glass":"' in entry.body:
            self._found.append((entry.at, json.loads(entry.body)))

    def found(self) -> list[Override]:
        """Every use, oldest first."""
        uses = []
        for at, body in self._found:
            target, number = target_of(body), int(body["version"]["version"])
            last = self._view.last_change(target, number)
            uses.append(
                Override(
                    break_glass=str(body["break_glass"]),
                    decision_id=str(body["id"]),
                    at=at,
                    target=target,
                    version=number,
                    actor=str(body["actor"]["name"]),
                    remains=last is not None and last.decision_id == body["id"],
                )
            )
        return uses


def _removal(entry: Entry, what: str) -> Change:
    return Change(seq=entry.seq, at=entry.at, body=None, text=entry.body, removed_by=what)


def target_of(body: Mapping[str, Any]) -> Target:
    """The target of a recorded decision."""
    said = body["target"]
    # Decisions from before they were signed hold the model in the key alone: `MODEL@ALIAS` or `MODEL/Stage`.
    model = said.get("model") or said["key"][: -len(said["name"]) - 1]
    return Target(kind=TargetKind(said["kind"]), model=model, name=said["name"], workspace=body["workspace"])


@dataclass(frozen=True, kw_only=True)
class Standing:
    """What is known about a name.

    Args:
        pointer: The name and what it means.
        findings: Everything that does not hold, worst first; empty when all does.
        decision_id: The decision by which it means that, where one was found.
        signed: The signed decision that vouches for it; the same one, or of a rollback the one it rests on.
    """

    pointer: Pointer
    findings: tuple[Finding, ...]
    decision_id: str | None
    signed: SignedDecision | None

    @property
    def severity(self) -> Severity | None:
        """The worst finding that is more than a note; None when the name stands."""
        worst = next(iter(self.findings), None)
        return None if worst is None or worst.severity is Severity.NOTE else worst.severity


def judge(
    pointer: Pointer,
    *,
    change: Change | None,
    recorded: RecordedDecision | None,
    grounds: RecordedDecision | None,
    form: FormManifest | UnreadableForm | None,
    keys: Mapping[str, bytes],
    now: datetime,
) -> Standing:
    """Compare what a name means with what was allowed, and name everything that differs.

    Args:
        pointer: The name.
        change: What the audit chain says last about it (`AuditView.last_change`).
        recorded: The ledger's row of that decision.
        grounds: The latest signed decision for the same target and form, for a rollback that is not signed itself.
        form: The form of the version as its bytes are now; None leaves the bytes out.
        keys: Public keys (PEM) of the gate, by name.
        now: The present moment, with zone.

    Raises:
        ConfigError: `keys` is empty or holds something that is no Ed25519 public key.
    """
    findings: list[Finding] = []

    def add(code: str, severity: Severity, message: str) -> None:
        findings.append(Finding(code=code, severity=severity, message=message))

    def done(decision_id: str | None = None, signed: SignedDecision | None = None) -> Standing:
        order = list(Severity)
        ranked = tuple(sorted(findings, key=lambda f: order.index(f.severity)))
        return Standing(pointer=pointer, findings=ranked, decision_id=decision_id, signed=signed)

    target, version = pointer.target, pointer.version
    # (1) The name means a version that is there.
    if version is None:
        add("mismatched", Severity.INTEGRITY, f"{target} names version {pointer.number}, which is not there")
        return done()

    # (2) The last thing that was recorded about the name is that it was allowed.
    if change is None:
        add(
            "ungoverned",
            Severity.INTEGRITY,
            f"expected a decision that allowed {target} -> version {version.version}, got none: it was written past "
            "the gate, or before there was one",
        )
        return done()
    if change.body is None:
        add(
            "ungoverned",
            Severity.INTEGRITY,
            f"{target} was taken from its version at {change.at} ({change.removed_by}) and nothing allowed it since, "
            f"but it means version {version.version}: it was written past the gate",
        )
        return done()
    body = change.body
    decision_id = str(body["id"])

    # (3) It was allowed for exactly this row.
    said = body["version"]
    row = (version.version, version.created_ms, version.location)
    decided = (said["version"], said["created_ms"], said["location"])
    if row != decided:
        if said["version"] != version.version:
            what = f"version {said['version']}, got version {version.version}"
        else:
            what = f"the version {version.version} that was registered then, got another row of that number or location"
        add("mismatched", Severity.INTEGRITY, f"expected {target} to mean what decision {decision_id} allowed: {what}")
        return done(decision_id)

    # (4) The ledger's row says what the audit chain says.
    if recorded is None:
        add("forged", Severity.INTEGRITY, f"decision {decision_id} is in the audit chain but gone from the ledger")
        return done(decision_id)
    form_digest = body.get("form")
    if recorded.body != change.text or not recorded.allowed or recorded.form_digest != form_digest:
        add("forged", Severity.INTEGRITY, f"the ledger's row of decision {decision_id} was edited after it was written")

    # (5) What was free was never assessed.
    if form_digest is None:
        add(
            "free_before",
            Severity.UNDECIDED,
            f"{target} was moved while nothing governed it (decision {decision_id}), so its bytes were never assessed: "
            "promote it again",
        )
        return done(decision_id)

    # (6) The gate's key signed exactly this.
    signed = _signature(target, body, recorded, grounds, keys, add)

    # (7) The bytes are those that were decided on.
    match form:
        case FormManifest() if form.digest != form_digest:
            add(
                "changed",
                Severity.INTEGRITY,
                f"expected version {version.version} to be the form {form_digest} that decision {decision_id} allowed, "
                f"got {form.digest}: its files changed since",
            )
        case UnreadableForm():
            add(
                "unreadable",
                Severity.UNDECIDED,
                f"the files of version {version.version} cannot be read: {form.message}",
            )
        case _:
            pass

    # (8) It still holds.
    if signed is not None and signed.valid_until is not None and signed.valid_until <= now:
        add(
            "expired",
            Severity.EXPIRED,
            f"decision {signed.id} held until {signed.valid_until.isoformat()}: evidence or a waiver that it rests on "
            "no longer counts; assess the version again and promote it again",
        )
    return done(decision_id, signed)


def _signature(
    target: Target,
    body: Mapping[str, Any],
    recorded: RecordedDecision,
    grounds: RecordedDecision | None,
    keys: Mapping[str, bytes],
    add: Any,
) -> SignedDecision | None:
    """The signed decision that vouches for this one, or None and a finding."""
    rollback = any(reason["code"] == "rollback" for reason in body["reasons"])
    source = recorded if recorded.envelope is not None else grounds if rollback else None
    if source is None or source.envelope is None:
        add(
            "unsigned",
            Severity.INTEGRITY,
            f"expected decision {recorded.id} to be signed with the gate's key, got no signature: it is older than the "
            "gate's key, or was written past the gate; promote the version again",
        )
        return None
    try:
        signed = verify_decision(source.envelope, keys)
    except EvidenceError as err:
        add("forged", Severity.INTEGRITY, f"the signature of decision {source.id} does not verify: {err}")
        return None
    matches = signed.body == body if source is recorded else (signed.target, signed.form) == (target, body["form"])
    if not matches:
        add("forged", Severity.INTEGRITY, f"decision {source.id} says something else than what the gate signed")
        return None
    if source is not recorded:
        add(
            "rollback",
            Severity.NOTE,
            f"decision {recorded.id} is a rollback without a signature; the signed decision {signed.id} allowed this "
            "form there before",
        )
    return signed
