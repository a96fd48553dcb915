"""Review a promotion: fetch what `decide` needs, decide each move, and say what must be written.

The one flow that the registry hook and the command line share (DESIGN.md section 4.1). It never runs a battery and
never loads a model; it reads the artifact's bytes, the policy set and the ledger.
"""

from __future__ import annotations

import functools
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

from sqlalchemy import Connection

from registry_gate.decision import Decision, Reason, Verdict, worst
from registry_gate.errors import EvidenceError, LedgerError, PolicyError, RegistryError
from registry_gate.evidence.envelope import verify
from registry_gate.form import FormManifest, differences
from registry_gate.ledger import AssessmentRequest, Ledger, RequestState, StoredDecision, StoredEvidence
from registry_gate.policy.document import PolicySet, load_policy_set
from registry_gate.policy.inputs import EvidenceItem, UnreadableForm, UnverifiedEvidence, VerifiedEvidence
from registry_gate.policy.rules import decide
from registry_gate.promotion import ModelVersionRef, Move, PromotionRequest

INTEGRITY_CODES = frozenset({"signature_invalid", "evidence_integrity"})
"""Reasons that not even a rollback overrides: somebody tampered."""


class FormReader(Protocol):
    """Reads the adapted form of a model version as its bytes are now."""

    def read(self, version: ModelVersionRef) -> FormManifest:
        """The manifest.

        Raises:
            RegistryError: The artifact cannot be read or is no form.
        """
        ...


class PolicySource:
    """The policy set of a directory, loaded again whenever a file in it changes.

    A directory that does not load gives its error at every review until it loads again: never the old set, never a
    mixture.

    Args:
        directory: The policy directory.
        battery_dirs: Directories of batteries beside the policy directory's own.
    """

    def __init__(self, directory: Path, battery_dirs: Sequence[Path]) -> None:
        self.directory = directory
        self._battery_dirs = tuple(battery_dirs)
        self._seen: tuple[tuple[str, int, int, int], ...] | None = None
        self._loaded: PolicySet | PolicyError | None = None

    def current(self) -> PolicySet:
        """The policy set in force.

        Raises:
            PolicyError: The directory holds no valid policy set.
        """
        seen = self._fingerprint()
        if self._loaded is None or seen != self._seen:
            try:
                self._loaded = load_policy_set(self.directory, self._battery_dirs)
            except PolicyError as err:
                self._loaded = err
            self._seen = seen
        if isinstance(self._loaded, PolicyError):
            raise self._loaded
        return self._loaded

    def _fingerprint(self) -> tuple[tuple[str, int, int, int], ...]:
        """What changes whenever a file is added, removed or written; cases do not matter to decisions."""
        found = []
        for root in (self.directory, *self._battery_dirs):
            for path in [root, *root.glob("*.yaml"), *root.glob("batteries/*.yaml"), *root.glob("signers/*")]:
                try:
                    status = path.stat()
                except OSError:
                    found.append((str(path), 0, 0, 0))
                else:
                    found.append((str(path), status.st_mtime_ns, status.st_ctime_ns, status.st_size))
        return tuple(sorted(found))


@dataclass(frozen=True, kw_only=True)
class NeededAssessment:
    """An assessment that would give a better answer; becomes a request in the ledger."""

    version: ModelVersionRef
    form_digest: str
    battery: str
    battery_digest: str


@dataclass(frozen=True, kw_only=True)
class Review:
    """What was decided about one registry call.

    Args:
        request: The call.
        decisions: One for each move, in the request's order.
        needed: Assessments to request when the call is denied.
    """

    request: PromotionRequest
    decisions: tuple[StoredDecision, ...]
    needed: tuple[NeededAssessment, ...]

    @property
    def allowed(self) -> bool:
        """True when every move is allowed; counted, and never true of no move."""
        return len(self.decisions) == len(self.request.moves) == sum(d.decision.allowed for d in self.decisions) > 0

    @property
    def verdict(self) -> Verdict:
        """The worst verdict of all moves."""
        return worst(d.decision.verdict for d in self.decisions)


@dataclass(frozen=True, kw_only=True)
class Denial:
    """A denied call as it was recorded, ready for an answer to the caller."""

    review: Review
    decision_ids: tuple[str, ...]
    requests: tuple[AssessmentRequest, ...]

    def message(self) -> str:
        """What a person reads, complete on its own: MLflow's pages show nothing else."""
        lines = []
        for stored in self.review.decisions:
            if stored.decision.allowed:
                continue
            version = stored.move.version
            lines.append(
                f"registry-gate denied {stored.move.target} -> version {version.version} "
                f"(verdict: {stored.decision.verdict})."
            )
            blocking = [reason for reason in stored.decision.reasons if reason.blocking]
            lines += [f"{n}. {_sentence(reason)}" for n, reason in enumerate(blocking, 1)]
        lines += [f"Request {r.id}: {_standing(r)}. Follow it with: registry-gate status {r.id}" for r in self.requests]
        lines += [f"Next: {command}" for command in self.commands()]
        lines.append(f"Decision {', '.join(self.decision_ids)}")
        return "\n".join(lines)

    def commands(self) -> list[str]:
        """Commands that bring the caller on."""
        found = []
        for stored in self.review.decisions:
            version, target = stored.move.version, stored.move.target
            if any(request.state in (RequestState.FAILED, RequestState.DONE) for request in self.requests):
                # There was an assessment, and what came of it does not count: waiting would change nothing.
                found.append(f"registry-gate assess {version} --again")
            elif self.requests:
                found.append(f'registry-gate promote {version} --{target.kind} "{target.name}" --wait')
        return list(dict.fromkeys(found))

    def payload(self) -> dict[str, Any]:
        """The stable JSON of a denial; machines read it under `registry_gate` of MLflow's error body."""
        return {
            "decision": "denied",
            "verdict": str(self.review.verdict),
            "operation": self.review.request.operation,
            "decision_ids": list(self.decision_ids),
            "moves": [_move_payload(stored) for stored in self.review.decisions],
            "reasons": [reason.to_dict() for stored in self.review.decisions for reason in stored.decision.reasons],
            "requests": [
                {"id": r.id, "battery": r.battery, "form": r.form_digest, "state": str(r.state)} for r in self.requests
            ],
            "commands": self.commands(),
        }


def _sentence(reason: Reason) -> str:
    head = f"[{reason.policy}] " if reason.policy else ""
    controls = f" (controls: {', '.join(reason.controls)})" if reason.controls else ""
    return f"{head}{reason.message}{controls}"


def _standing(request: AssessmentRequest) -> str:
    match request.state:
        case RequestState.FAILED:
            return f"the assessment with {request.battery} failed: {request.failure}"
        case RequestState.RUNNING:
            return f"being assessed with {request.battery} by {request.worker} ({request.progress or 'just begun'})"
        case RequestState.DONE:
            return f"assessed with {request.battery} on {request.updated_at}"
        case RequestState.QUEUED:
            return f"queued for {request.battery}"


def _move_payload(stored: StoredDecision) -> dict[str, Any]:
    target, version = stored.move.target, stored.move.version
    return {
        "target": {"kind": str(target.kind), "model": target.model, "name": target.name},
        "version": {"name": version.name, "version": version.version},
        "form": stored.decision.form_digest,
        "decision": "allowed" if stored.decision.allowed else "denied",
        "verdict": str(stored.decision.verdict),
    }


class Gate:
    """Decides promotions.

    Args:
        ledger: Evidence and earlier decisions.
        policies: The policy set.
        forms: Reads the bytes of a version.
        clock: The time of the decision; read once per review.
    """

    def __init__(
        self, *, ledger: Ledger, policies: PolicySource, forms: FormReader, clock: Callable[[], datetime]
    ) -> None:
        self.ledger = ledger
        self.policies = policies
        self.forms = forms
        self._clock = clock

    def review(self, request: PromotionRequest) -> Review:
        """Decide every move of a registry call. Writes nothing.

        Raises:
            LedgerError: The ledger cannot be read: nothing could be decided, and nothing may be promoted.
        """
        now = self._clock()
        try:
            policy_set: PolicySet | PolicyError = self.policies.current()
        except PolicyError as err:
            policy_set = err
        forms: dict[ModelVersionRef, FormManifest | UnreadableForm] = {}
        decisions: list[StoredDecision] = []
        needed: dict[tuple[str, str], NeededAssessment] = {}
        # (1) The request is resolved: it names every target and the version it would come to mean.
        for move in request.moves:
            decision = self._decide(move, policy_set, forms, now)
            form = forms.get(move.version)
            if isinstance(policy_set, PolicySet) and isinstance(form, FormManifest) and not decision.allowed:
                for battery in decision.assessments_needed:
                    needed[(form.digest, battery)] = NeededAssessment(
                        version=move.version,
                        form_digest=form.digest,
                        battery=battery,
                        battery_digest=policy_set.batteries[battery].digest,
                    )
            decisions.append(
                StoredDecision(
                    id=str(uuid.uuid4()),
                    decided_at=now,
                    operation=request.operation,
                    move=move,
                    actor=request.actor,
                    decision=decision,
                    policy_set_digest=policy_set.digest if isinstance(policy_set, PolicySet) else None,
                )
            )
        return Review(request=request, decisions=tuple(decisions), needed=tuple(needed.values()))

    def _decide(
        self,
        move: Move,
        policy_set: PolicySet | PolicyError,
        forms: dict[ModelVersionRef, FormManifest | UnreadableForm],
        now: datetime,
    ) -> Decision:
        policies = []
        if isinstance(policy_set, PolicySet):
            governance = policy_set.governing(move.target)
            # (2) Free targets are nobody's promise: they pass, and the ledger says so.
            if governance.free is not None:
                return _ungoverned(f"{move.target} is free by the policy set ({governance.free})")
            # (3) Every policy that covers the target must allow. No policy: as the policy set says.
            if not governance.policies and governance.unmatched == "allow":
                return _ungoverned(f"no policy governs {move.target} and the policy set allows that")
            policies = list(governance.policies)
        # (4) The form as it is now.
        if move.version not in forms:
            forms[move.version] = self._read_form(move.version)
        form = forms[move.version]
        if isinstance(policy_set, PolicyError):
            decision = _denied(form, "policies_invalid", f"the policy set cannot be loaded: {policy_set}")
        else:
            # (5) Evidence for exactly these bytes, and who signed it. (6) The decision.
            evidence = self._evidence(form, move.version.workspace, policy_set)
            decision = decide(policies=policies, batteries=policy_set.batteries, form=form, evidence=evidence, now=now)
            if isinstance(form, FormManifest) and any(_lacks_evidence(r) for r in decision.reasons):
                decision = self._changed_since(move.version, form, policy_set, decision)
        if not decision.allowed:
            decision = self._rolled_back(move, form, decision) or decision
        return decision

    def _read_form(self, version: ModelVersionRef) -> FormManifest | UnreadableForm:
        try:
            return self.forms.read(version)
        except RegistryError as err:
            return UnreadableForm(code=err.code, message=str(err))

    def _evidence(
        self, form: FormManifest | UnreadableForm, workspace: str, policy_set: PolicySet
    ) -> list[EvidenceItem]:
        if isinstance(form, UnreadableForm):
            return []
        keys = tuple(sorted(policy_set.signers.items()))
        return [_verified(stored, keys) for stored in self.ledger.evidence_for(form.digest, workspace)]

    def _changed_since(
        self, version: ModelVersionRef, form: FormManifest, policy_set: PolicySet, denied: Decision
    ) -> Decision:
        """Say `stale`, and what changed, where this version was assessed with other bytes before."""
        keys = tuple(sorted(policy_set.signers.items()))
        for digest in self.ledger.forms_of(version):
            if digest == form.digest:
                continue
            for stored in self.ledger.evidence_for(digest, version.workspace):
                if isinstance(_verify_bytes(stored.digest, stored.envelope, keys), VerifiedEvidence):
                    earlier = verify(stored.envelope, policy_set.signers).statement.manifest
                    message = f"{version} changed since it was assessed: {'; '.join(differences(earlier, form))}"
                    reasons = tuple(
                        replace(r, code="form_changed", verdict=Verdict.STALE, message=f"{message}. {r.message}")
                        if _lacks_evidence(r)
                        else r
                        for r in denied.reasons
                    )
                    return replace(denied, reasons=reasons, verdict=worst(r.verdict for r in reasons if r.blocking))
        return denied

    def _rolled_back(self, move: Move, form: FormManifest | UnreadableForm, denied: Decision) -> Decision | None:
        """Returning a target to a form that was allowed there before always works, unless somebody tampered."""
        if isinstance(form, UnreadableForm) or any(r.code in INTEGRITY_CODES for r in denied.reasons):
            return None
        earlier = self.ledger.allowed_before(move.target, form.digest)
        if earlier is None:
            return None
        note = Reason(
            code="rollback",
            message=f"{move.target} returns to a form that decision {earlier} allowed there before",
            verdict=Verdict.PASS_WITH_NOTES,
            blocking=False,
        )
        today = tuple(replace(reason, blocking=False) for reason in denied.reasons)
        return replace(denied, verdict=Verdict.PASS_WITH_NOTES, allowed=True, reasons=(note, *today))

    def record_allowed(self, connection: Connection, review: Review) -> tuple[str, ...]:
        """Write the decisions of an allowed call in the transaction that moves the pointer."""
        return tuple(self.ledger.record_decision(connection, stored) for stored in review.decisions)

    def record_denied(self, review: Review) -> Denial:
        """Write the decisions of a denied call and queue the assessments that would help, in one transaction.

        Raises:
            LedgerError: Nothing was written; the call is denied all the same.
        """
        # A move that was fine on its own did not happen either: recorded as allowed it would be grounds for a rollback.
        denied = [stored for stored in review.decisions if not stored.decision.allowed]
        expired = any(reason.code == "evidence_expired" for stored in denied for reason in stored.decision.reasons)
        with self.ledger.transaction() as connection:
            ids = tuple(self.ledger.record_decision(connection, stored) for stored in denied)
            requests = tuple(self.request(connection, needed, again=expired) for needed in review.needed)
        return Denial(review=review, decision_ids=ids, requests=requests)

    def request(self, connection: Connection, needed: NeededAssessment, *, again: bool = False) -> AssessmentRequest:
        """The ledger's request for a needed assessment."""
        return self.ledger.request_assessment(
            connection,
            workspace=needed.version.workspace,
            form_digest=needed.form_digest,
            battery=needed.battery,
            battery_digest=needed.battery_digest,
            model=needed.version.name,
            version=needed.version.version,
            again=again,
        )


def _lacks_evidence(reason: Reason) -> bool:
    """Blocking only: while a policy warns, missing evidence is a note on a promotion that is allowed."""
    return reason.blocking and reason.code == "evidence_missing"


def _ungoverned(why: str) -> Decision:
    note = Reason(code="ungoverned", message=why, verdict=Verdict.PASS, blocking=False)
    return Decision(verdict=Verdict.PASS, allowed=True, reasons=(note,), form_digest=None)


def _denied(form: FormManifest | UnreadableForm, code: str, message: str) -> Decision:
    reasons = [Reason(code=code, message=message, verdict=Verdict.INVALID)]
    if isinstance(form, UnreadableForm):
        reasons.append(Reason(code=form.code, message=form.message, verdict=Verdict.INVALID))
    digest = None if isinstance(form, UnreadableForm) else form.digest
    return Decision(verdict=Verdict.INVALID, allowed=False, reasons=tuple(reasons), form_digest=digest)


def _verified(stored: StoredEvidence, keys: tuple[tuple[str, bytes], ...]) -> EvidenceItem:
    return _verify_bytes(stored.digest, stored.envelope, keys)


@functools.lru_cache(maxsize=512)
def _verify_bytes(digest: str, envelope: bytes, keys: tuple[tuple[str, bytes], ...]) -> EvidenceItem:
    """Verification is a pure function of these bytes, so a verified envelope need not be verified twice."""
    try:
        verified = verify(envelope, dict(keys))
    except EvidenceError as err:
        return UnverifiedEvidence(digest=digest, cause=str(err))
    if verified.digest != digest:
        return UnverifiedEvidence(digest=digest, cause=f"filed under {digest} but its bytes are {verified.digest}")
    return VerifiedEvidence(digest=digest, assessment=verified.assessment, signers=verified.signers)


def unavailable(request: PromotionRequest, err: LedgerError) -> tuple[str, Mapping[str, Any]]:
    """Message and payload of a denial when the ledger itself cannot be read or written."""
    targets = ", ".join(str(move.target) for move in request.moves)
    message = f"registry-gate denied {targets}: nothing could be decided. {err}"
    reason = Reason(code="ledger_unavailable", message=str(err), verdict=Verdict.INVALID)
    return message, {
        "decision": "denied",
        "verdict": str(Verdict.INVALID),
        "operation": request.operation,
        "decision_ids": [],
        "moves": [],
        "reasons": [reason.to_dict()],
        "requests": [],
        "commands": ["registry-gate doctor"],
    }
