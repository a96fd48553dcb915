"""Review a promotion: fetch what `decide` needs, decide each move, and say what must be written.

The one flow that the registry hook and the command line share (DESIGN.md section 4.1). It never runs a battery and
never loads a model; it reads the artifact's bytes, the policy set and the ledger.
"""

from __future__ import annotations

import functools
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Protocol

from sqlalchemy import Connection

from registry_gate.calibrations import calibrations_of
from registry_gate.decision import Decision, Reason, Verdict, worst
from registry_gate.errors import ConfigError, EvidenceError, LedgerError, PolicyError, RegistryError
from registry_gate.evidence.decisions import sign_decision, verify_decision
from registry_gate.evidence.envelope import verify
from registry_gate.evidence.keys import DecisionSigner, GateKey
from registry_gate.form import FormManifest, differences
from registry_gate.grants import grants_for
from registry_gate.ledger import AssessmentRequest, Ledger, RequestState, StoredDecision, StoredEvidence
from registry_gate.ledger.frozen import FrozenTrees, Held
from registry_gate.ledger.store import as_text
from registry_gate.pending import PendingReads
from registry_gate.policy.document import PolicySet
from registry_gate.policy.files import UnreachableError, UnsignedError
from registry_gate.policy.grants import CLOCK_TOLERANCE
from registry_gate.policy.inputs import EvidenceItem, UnreadableForm, UnverifiedEvidence, VerifiedEvidence
from registry_gate.policy.rules import decide
from registry_gate.policy.source import PolicySource
from registry_gate.policy_uses import PolicyUses
from registry_gate.promotion import ModelVersionRef, Move, PromotionRequest

LIMIT_S = 2.0
"""A decision that takes longer is a denial that says so: clients ask again, and proxies cut calls that hang."""

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

    def unchanged(self, version: ModelVersionRef, digest: str) -> bool | None:
        """Whether the form still has a digest that was read; None where that cannot be told without reading it."""
        ...


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
        decided_at: The one moment of this review.
        decisions: One for each move, in the request's order.
        needed: Assessments to request when the call is denied.
        forms: The forms that were decided on, as they were read; none of a version that no policy governs.
        policy_set: The policy set in force; None when none could be loaded.
    """

    request: PromotionRequest
    decided_at: datetime
    decisions: tuple[StoredDecision, ...]
    needed: tuple[NeededAssessment, ...]
    forms: Mapping[ModelVersionRef, FormManifest] = field(default_factory=dict)
    policy_set: PolicySet | None = None

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
            said = stored.decision.reasons
            blocking = [reason for reason in said if reason.blocking]
            lines += [
                reason.message for reason in said if reason.code in ("break_glass_open", "break_glass_not_counted")
            ]
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
        key: Signs what is allowed. Without it nothing is allowed but a rollback.
        clock: The time of the decision; read once per review.
        limit_s: How long a review may wait for the files of its versions, seconds.
    """

    def __init__(
        self,
        *,
        ledger: Ledger,
        policies: PolicySource,
        forms: FormReader,
        key: GateKey,
        clock: Callable[[], datetime],
        limit_s: float = LIMIT_S,
    ) -> None:
        self.limit_s = limit_s
        self.ledger = ledger
        self.policies = policies
        self.forms = forms
        self.key = key
        self._clock = clock
        self._uses = PolicyUses(ledger, policies)
        self._reads = PendingReads(lambda v: self.forms.read(v), lambda v, digest: self.forms.unchanged(v, digest))

    def review(self, request: PromotionRequest) -> Review:
        """Decide every move of a registry call. Writes nothing.

        Raises:
            LedgerError: The ledger cannot be read: nothing could be decided, and nothing may be promoted.
        """
        now = self._clock()
        deadline = time.monotonic() + self.limit_s
        clock_fault = self._clock_fault(now)
        try:
            policy_set: PolicySet | PolicyError = self.policies.current()
        except PolicyError as err:
            policy_set = err
        signer = self._signer()
        forms: dict[ModelVersionRef, FormManifest | UnreadableForm] = {}
        decisions: list[StoredDecision] = []
        needed: dict[tuple[str, str], NeededAssessment] = {}
        # (1) The request is resolved: it names every target and the version it would come to mean.
        for move in request.moves:
            decision = self._free(move, policy_set)
            if decision is None:
                # (4) The form as it is now.
                if move.version not in forms:
                    forms[move.version] = self._read_form(move.version, deadline)
                decision = self._decide(
                    move, policy_set, forms[move.version], signer, request.actor.name, now, clock_fault
                )
            read = forms.get(move.version)
            if isinstance(policy_set, PolicySet) and isinstance(read, FormManifest) and not decision.allowed:
                for battery in decision.assessments_needed:
                    needed[(read.digest, battery)] = NeededAssessment(
                        version=move.version,
                        form_digest=read.digest,
                        battery=battery,
                        battery_digest=policy_set.batteries[battery].digest,
                    )
            stored = StoredDecision(
                id=str(uuid.uuid4()),
                decided_at=now,
                operation=request.operation,
                move=move,
                actor=request.actor,
                decision=decision,
                policy_set_digest=policy_set.digest if isinstance(policy_set, PolicySet) else None,
            )
            decisions.append(self._signed(stored, read, signer))
        return Review(
            request=request,
            decided_at=now,
            decisions=tuple(decisions),
            needed=tuple(needed.values()),
            forms={version: form for version, form in forms.items() if isinstance(form, FormManifest)},
            policy_set=policy_set if isinstance(policy_set, PolicySet) else None,
        )

    def _clock_fault(self, now: datetime) -> str | None:
        """Why the clock cannot be believed: it stands before something that the ledger already holds."""
        latest = self.ledger.latest_moment()
        if latest is None or latest - now <= CLOCK_TOLERANCE:
            return None
        return (
            f"expected a clock that only goes forward, got {now:%Y-%m-%d %H:%M:%S} UTC after an entry of "
            f"{latest:%Y-%m-%d %H:%M:%S} UTC: set this server's clock, or the one that was ahead"
        )

    def _free(self, move: Move, policy_set: PolicySet | PolicyError) -> Decision | None:
        """The decision about a target that nobody governs, or None."""
        if isinstance(policy_set, PolicyError):
            return None
        governance = policy_set.governing(move.target)
        # (2) Free targets are nobody's promise: they pass, and the ledger says so.
        if governance.free is not None:
            return _ungoverned(f"{move.target} is free by the policy set ({governance.free})")
        # (3) Every policy that covers the target must allow. No policy: as the policy set says.
        if not governance.policies and governance.unmatched == "allow":
            return _ungoverned(f"no policy governs {move.target} and the policy set allows that")
        return None

    def _decide(
        self,
        move: Move,
        policy_set: PolicySet | PolicyError,
        form: FormManifest | UnreadableForm,
        signer: DecisionSigner | ConfigError,
        actor: str,
        now: datetime,
        clock_fault: str | None,
    ) -> Decision:
        if isinstance(policy_set, UnreachableError):
            decision = _denied(form, policy_set.code, f"nobody knows which policies are in force: {policy_set}")
        elif isinstance(policy_set, UnsignedError):
            decision = _denied(form, policy_set.code, f"the policies are not signed as they must be: {policy_set}")
        elif isinstance(policy_set, PolicyError):
            decision = _denied(form, "policies_invalid", f"the policy set cannot be loaded: {policy_set}")
        elif clock_fault is not None:
            decision = _denied(form, "clock_backwards", clock_fault)
        else:
            # (5) Evidence for exactly these bytes, and who signed it. (6) The decision.
            evidence = self._evidence(form, move.version.workspace, policy_set)
            policies = policy_set.governing(move.target).policies
            digest = form.digest if isinstance(form, FormManifest) else ""
            where = (move.version.workspace, move.target.model)
            grants = grants_for(self.ledger, policy_set, policies, *where, digest)
            judged = functools.partial(
                decide,
                policies=policies,
                batteries=policy_set.batteries,
                form=form,
                evidence=evidence,
                calibrations=calibrations_of(policy_set),
                break_glass=policy_set.break_glass,
                requester=actor,
                now=now,
            )
            decision = judged(grants=grants)
            if decision.break_glass is not None:
                # What needs no emergency is not put down as one.
                decision = self._rolled_back(move, form, judged(grants=replace(grants, break_glass=()))) or decision
            if isinstance(form, FormManifest) and any(_lacks_evidence(r) for r in decision.reasons):
                decision = self._changed_since(move.version, form, policy_set, decision)
        # (6.1) What cannot be signed is not allowed: a deployment could not tell it from a forged decision.
        if decision.allowed and isinstance(signer, ConfigError):
            reason = Reason(code=signer.code, message=str(signer), verdict=Verdict.INVALID)
            decision = replace(
                decision,
                verdict=Verdict.INVALID,
                allowed=False,
                reasons=(reason, *decision.reasons),
                break_glass=None,
                valid_until=None,
            )
        if not decision.allowed:
            decision = self._rolled_back(move, form, decision) or decision
        return decision

    def _signer(self) -> DecisionSigner | ConfigError:
        try:
            return self.key.signer()
        except ConfigError as err:
            return err

    def _signed(
        self, stored: StoredDecision, form: FormManifest | UnreadableForm | None, signer: DecisionSigner | ConfigError
    ) -> StoredDecision:
        """The decision with its signature, where it has one.

        What no policy governs is not signed: nothing was promised about it. A rollback is signed only on the ground of
        a signed decision, so that a row which somebody wrote into the ledger never becomes a signature.
        """
        if not stored.decision.allowed or not isinstance(form, FormManifest) or stored.decision.form_digest is None:
            return stored
        if is_rollback(stored.decision):
            grounds = self.ledger.signed_before(stored.move.target, form.digest)
            if grounds is None or grounds.envelope is None:
                return _unsigned(stored, "no earlier decision for it is signed")
            try:
                earlier = verify_decision(grounds.envelope, self.key.public_keys())
            except (ConfigError, EvidenceError) as err:
                return _unsigned(stored, str(err))
            if (earlier.target, earlier.form) != (stored.move.target, form.digest):
                return _unsigned(stored, f"the signature of decision {grounds.id} is of something else")
            # It rests on the same evidence, so asking again does not make that younger.
            stored = replace(stored, decision=replace(stored.decision, valid_until=earlier.valid_until))
            if isinstance(signer, ConfigError):
                return _unsigned(stored, str(signer))
        if isinstance(signer, ConfigError):
            raise signer  # decided otherwise in `_decide`: nothing else is allowed without a key
        at = as_text(stored.decided_at)
        envelope = sign_decision(stored.body(), decided_at=at, base=form.base, signer=signer)
        return replace(stored, envelope=envelope)

    def _read_form(self, version: ModelVersionRef, deadline: float) -> FormManifest | UnreadableForm:
        try:
            return self._reads.result(version, deadline - time.monotonic())
        except TimeoutError:
            message = (
                f"expected to read the files of {version} within {self.limit_s:g} s, got no end yet: they are being "
                "hashed in the background, so ask again in a moment"
            )
            return UnreadableForm(code="form_pending", message=message)
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

    def record_allowed(
        self, connection: Connection, review: Review, held: Mapping[ModelVersionRef, Held]
    ) -> tuple[str, ...]:
        """Write the decisions of an allowed call in the transaction that moves the pointer, and freeze the files.

        Args:
            connection: That transaction.
            review: The call.
            held: What the form of each version is loaded from, where that can be frozen.

        Raises:
            RegistryError: What was decided on is not so any more, or is being written; nothing may be written.
        """
        # From here on nobody else writes to the ledger or publishes a file, so what is found to hold holds.
        self.ledger.lock(connection)
        self._require_still_so(connection, review)
        trees = FrozenTrees(self.ledger)
        for files in held.values():
            trees.require_no_writes(connection, files)
        self._note_policies(connection, review)
        ids = tuple(self.ledger.record_decision(connection, stored) for stored in review.decisions)
        for stored, decision in zip(review.decisions, ids, strict=True):
            version = stored.move.version
            if version in held:
                trees.freeze(connection, held[version].places, location=version.location, decision=decision)
        return ids

    def _require_still_so(self, connection: Connection, review: Review) -> None:
        """Policies, clock, what counts and bytes are still those of the review."""
        now = self._clock()
        if now < review.decided_at - CLOCK_TOLERANCE:
            raise RegistryError(
                "expected a clock that only goes forward, got one that was set back during the review: ask again",
                code="clock_backwards",
            )
        try:
            in_force = self.policies.current().digest
        except PolicyError:
            in_force = None
        for stored in review.decisions:
            # A rollback stands whatever the policies say, so it needs none to be in force.
            if stored.policy_set_digest not in (None, in_force) and not is_rollback(stored.decision):
                raise RegistryError(
                    "expected the policies that the decision rests on, got others in the meantime: ask again",
                    code="policies_changed",
                )
            ends = stored.decision.valid_until
            if ends is not None and ends <= now and not is_rollback(stored.decision):
                raise RegistryError(
                    "expected evidence, waivers and break-glass that still count, got some that ended at "
                    f"{ends.isoformat()}, while the promotion was under way: ask again",
                    code="decision_expired",
                )
            if not is_rollback(stored.decision) and self.ledger.taken_back(connection, _granted_by(stored.decision)):
                raise RegistryError(
                    "expected waivers, approvals and break-glass that still count, got one that was taken back while "
                    "the promotion was under way: ask again",
                    code="grant_revoked",
                )
            digest, version = stored.decision.form_digest, stored.move.version
            if digest is not None and self.forms.unchanged(version, digest) is False:
                raise RegistryError(
                    f"expected the files of {version} as they were decided on, got others in the meantime: ask again",
                    code="form_changed",
                )

    def record_denied(self, review: Review) -> Denial:
        """Write the decisions of a denied call and queue the assessments that would help, in one transaction.

        Raises:
            LedgerError: Nothing was written; the call is denied all the same.
        """
        # A move that was fine on its own did not happen either: recorded as allowed it would be grounds for a rollback.
        denied = [stored for stored in review.decisions if not stored.decision.allowed]
        # What ended does not hold any more, and what stopped early is done again in full.
        again = any(
            reason.code in ("evidence_expired", "stopped_early")
            for stored in denied
            for reason in stored.decision.reasons
        )
        with self.ledger.transaction() as connection:
            self._note_policies(connection, review)
            ids = tuple(self.ledger.record_decision(connection, stored) for stored in denied)
            requests = tuple(self.request(connection, needed, again=again) for needed in review.needed)
        return Denial(review=review, decision_ids=ids, requests=requests)

    def _note_policies(self, connection: Connection, review: Review) -> None:
        if review.policy_set is not None:
            self._uses.note(connection, review.policy_set, review.decided_at)

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


def is_rollback(decision: Decision) -> bool:
    """Whether a target returned to a form that was allowed there before, whatever is known today."""
    return decision.allowed and any(reason.code == "rollback" for reason in decision.reasons)


def _granted_by(decision: Decision) -> tuple[str, ...]:
    """Ids of everything that people signed and that an allowed decision rests on."""
    opened = () if decision.break_glass is None else (decision.break_glass,)
    return (*decision.waivers, *decision.approvals, *opened)


def _unsigned(stored: StoredDecision, why: str) -> StoredDecision:
    """A rollback that is recorded without a signature, and says so; only rollbacks get here."""
    note = Reason(
        code="unsigned",
        message=f"recorded without a signature: {why}. `registry-gate verify` looks for an earlier signed decision",
        verdict=Verdict.PASS_WITH_NOTES,
        blocking=False,
    )
    decision = replace(stored.decision, reasons=(*stored.decision.reasons, note), verdict=Verdict.PASS_WITH_NOTES)
    return replace(stored, decision=decision)


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
