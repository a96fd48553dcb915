"""Compare every promoted name in the registry with the decisions: someone with the database's password can write SQL.

Reads MLflow's tables directly, so that nothing that a server might leave out is missed, and judges each name with
`standing`. It changes nothing; taking a name away is `cli`'s, through MLflow's API.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from sqlalchemy import Connection, and_, column, select, table
from sqlalchemy.exc import SQLAlchemyError

from registry_gate.calibrations import calibrations_of
from registry_gate.decision import Decision
from registry_gate.errors import EvidenceError, IntegrityError, LedgerError, RegistryError
from registry_gate.evidence.envelope import verify as verify_evidence
from registry_gate.form import FormManifest
from registry_gate.grants import grants_for
from registry_gate.ledger import Ledger, RecordedDecision
from registry_gate.policy.document import PolicySet
from registry_gate.policy.inputs import EvidenceItem, UnreadableForm, UnverifiedEvidence, VerifiedEvidence
from registry_gate.policy.rules import decide
from registry_gate.policy.source import PolicySource
from registry_gate.promotion import PROMOTED_STAGES, ModelVersionRef, Target, TargetKind
from registry_gate.standing import AuditView, Change, Finding, Pointer, Severity, Standing, judge

PROMPT_LOCATIONS = frozenset({"dummy-source", "prompt-template"})
"""Where a prompt's version says that its files are (MLFLOW.md section 6). A version with files is no prompt."""

_ALIASES = table("registered_model_aliases", column("alias"), column("version"), column("name"), column("workspace"))
_VERSIONS = table(
    "model_versions",
    *map(column, ("name", "version", "creation_time", "current_stage", "source", "storage_location", "workspace")),
)
_TRIES = 10

_Asked = tuple[str, str, str, tuple[str, ...], str | None]
"""Workspace, model, form, policies and who asked: what a decision of today depends on."""


@dataclass(frozen=True, kw_only=True)
class Head:
    """Where the audit chain ended when it was read."""

    seq: int
    hash: str


@dataclass(frozen=True, kw_only=True)
class Reconciliation:
    """What was found.

    Args:
        at: When.
        standings: One for each governed name, in the registry's order.
        ungoverned: How many names nobody governs: free aliases, prompts, and what the policy set leaves alone.
        policy_set: Digest of the policy set that says what is governed.
        head: The end of the audit chain; None when the chain does not verify.
        chain: Why the audit chain does not verify; None when it does.
        bytes_read: Whether the artifacts were read.
    """

    at: datetime
    standings: tuple[Standing, ...]
    ungoverned: int
    policy_set: str
    head: Head | None
    chain: str | None
    bytes_read: bool

    def worst(self) -> Severity | None:
        """The worst of all; None when every name stands."""
        found = {standing.severity for standing in self.standings} - {None}
        if self.chain is not None:
            return Severity.INTEGRITY
        return next((severity for severity in Severity if severity in found), None)


def pointers(connection: Connection) -> list[Pointer]:
    """Every alias and every version in a promoted stage, of all workspaces, as the database has them.

    Raises:
        LedgerError: MLflow's tables cannot be read.
    """
    v = _VERSIONS.c
    row_of = (v.creation_time, v.storage_location, v.source)
    aliases = (
        select(
            _ALIASES.c.workspace, _ALIASES.c.name, _ALIASES.c.alias, _ALIASES.c.version, v.version.label("row"), *row_of
        )
        .select_from(
            _ALIASES.outerjoin(
                _VERSIONS,
                and_(v.workspace == _ALIASES.c.workspace, v.name == _ALIASES.c.name, v.version == _ALIASES.c.version),
            )
        )
        .order_by(_ALIASES.c.workspace, _ALIASES.c.name, _ALIASES.c.alias)
    )
    staged = (
        select(v.workspace, v.name, v.current_stage, v.version, v.version.label("row"), *row_of)
        .where(v.current_stage.in_(PROMOTED_STAGES))
        .order_by(v.workspace, v.name, v.version)
    )
    found = []
    try:
        for kind, query in ((TargetKind.ALIAS, aliases), (TargetKind.STAGE, staged)):
            for workspace, model, name, number, row, created, location, source in connection.execute(query):
                target = Target(kind=kind, model=model, name=name, workspace=workspace)
                version = None
                if row is not None:
                    version = ModelVersionRef(
                        name=model,
                        version=int(row),
                        created_ms=int(created or 0),
                        location=str(location or source or ""),
                        source=str(source or ""),
                        workspace=workspace,
                    )
                found.append(Pointer(target=target, number=int(number), version=version))
    except SQLAlchemyError as err:
        cause = str(getattr(err, "orig", None) or type(err).__name__).splitlines()[0]
        raise LedgerError(
            f"expected MLflow's registry in the ledger's database, got: {cause}. Use the database that stands after "
            "`gated:` in the server's --registry-store-uri, with a role that may read MLflow's tables"
        ) from err
    return found


class FormSource(Protocol):
    """Reads the form of a version as its bytes are now."""

    def read(self, version: ModelVersionRef) -> FormManifest:
        """The manifest.

        Raises:
            RegistryError: The artifact cannot be read or is no form.
        """
        ...


class Reconciler:
    """Compares pointers and decisions of one registry.

    Args:
        ledger: In MLflow's own database.
        policies: What is governed, and what today's policies say.
        forms: Reads the bytes of a version; None leaves them out.
        keys: Public keys (PEM) of the gate, by name; read at each run.
        clock: Source of the present moment.
    """

    def __init__(
        self,
        *,
        ledger: Ledger,
        policies: PolicySource,
        forms: FormSource | None,
        keys: Callable[[], Mapping[str, bytes]],
        clock: Callable[[], datetime],
    ) -> None:
        self._ledger = ledger
        self._policies = policies
        self._forms = forms
        self._keys = keys
        self._clock = clock

    def run(self, known: Head | None = None, progress: Callable[[int, int], object] | None = None) -> Reconciliation:
        """Compare once.

        Args:
            known: Where the chain ended at an earlier run: it must still be on the way.
            progress: Told how many names of how many are done.

        Raises:
            PolicyError: The policy set does not load, so nobody knows what is governed.
            ConfigError: No public key of the gate.
            LedgerError: The database cannot be read.
        """
        now, policy_set, keys = self._clock(), self._policies.current(), self._keys()
        # (1) What the audit chain says, and whether it verifies.
        view, head, chain = self._audit(known)
        # (2) The names, read while nobody moved them: what is written meanwhile is taken in, and they are read again.
        found, moving = self._pointers(view)
        governed = [pointer for pointer in found if _governed(pointer, policy_set)]
        # (3) The rows of the decisions, all at once, and the bytes of each version once.
        changes = [view.last_change(pointer.target, pointer.number) for pointer in governed]
        ids = [change.decision_id for change in changes if change is not None and change.decision_id is not None]
        recorded = self._ledger.decisions_by_id(list(dict.fromkeys(ids)))
        forms: dict[ModelVersionRef, FormManifest | UnreadableForm] = {}
        decided: dict[_Asked, Decision] = {}
        standings = []
        for done, (pointer, change) in enumerate(zip(governed, changes, strict=True)):
            if (pointer.target.workspace, pointer.target.model) in moving:
                standings.append(_moving(pointer))
            else:
                standings.append(self._judge(pointer, change, recorded, forms, decided, keys, policy_set, now))
            if progress is not None:
                progress(done + 1, len(governed))
        return Reconciliation(
            at=now,
            standings=tuple(standings),
            ungoverned=len(found) - len(governed),
            policy_set=policy_set.digest,
            head=head,
            chain=chain,
            bytes_read=self._forms is not None,
        )

    def _audit(self, known: Head | None) -> tuple[AuditView, Head | None, str | None]:
        view = AuditView()
        seen: list[str] = []

        def visit(entry: Any) -> None:
            if known is not None and entry.seq == known.seq:
                seen.append(entry.hash)
            view.visit(entry)

        try:
            seq, digest = self._ledger.verify_chain(visit)
        except IntegrityError as err:
            # Pointers are compared all the same, with what is there.
            view = AuditView()
            self._ledger.visit_audit(view.visit)
            return view, None, str(err)
        if known is not None and known.seq > 0 and seen != [known.hash]:
            return (
                view,
                None,
                (
                    f"audit chain: expected entry {known.seq} with hash {known.hash[:16]} as it was read before, got "
                    f"{seen[0][:16] if seen else 'no such entry'}: the chain was rewritten or cut off"
                ),
            )
        return view, Head(seq=seq, hash=digest), None

    def _pointers(self, view: AuditView) -> tuple[list[Pointer], set[tuple[str, str]]]:
        found: list[Pointer] = []
        for _ in range(_TRIES):
            try:
                with self._ledger.engine.connect() as connection:
                    found = pointers(connection)
            except SQLAlchemyError as err:
                raise LedgerError(f"expected the registry's database to answer, got {type(err).__name__}") from err
            view.touched = set()
            self._ledger.visit_audit(view.visit, after=view.seq)
            if not view.touched:
                break
        return found, view.touched

    def _judge(
        self,
        pointer: Pointer,
        change: Change | None,
        recorded: Mapping[str, RecordedDecision],
        forms: dict[ModelVersionRef, FormManifest | UnreadableForm],
        decided: dict[_Asked, Decision],
        keys: Mapping[str, bytes],
        policy_set: PolicySet,
        now: datetime,
    ) -> Standing:
        row = None if change is None or change.decision_id is None else recorded.get(change.decision_id)
        form = None if pointer.version is None else self._form(pointer.version, forms)
        grounds = None
        if row is not None and row.envelope is None and row.form_digest is not None:
            grounds = self._ledger.signed_before(pointer.target, row.form_digest)
        standing = judge(pointer, change=change, recorded=row, grounds=grounds, form=form, keys=keys, now=now)
        if standing.findings or not isinstance(form, FormManifest):
            return standing
        # (4) What stands may still be something that nobody would allow today. Many names mean one form.
        policies = policy_set.governing(pointer.target).policies
        target = pointer.target
        requester = None if change is None or change.body is None else str(change.body["actor"]["name"])
        asked = (target.workspace, target.model, form.digest, tuple(policy.name for policy in policies), requester)
        if asked not in decided:
            decided[asked] = self._today(pointer, form, policy_set, requester, now)
        today = decided[asked]
        if today.allowed:
            return standing
        reasons = "; ".join(reason.message for reason in today.reasons if reason.blocking)
        note = Finding(
            code="denied_today",
            severity=Severity.NOTE,
            message=f"today's policies would deny it ({today.verdict}): {reasons}",
        )
        return Standing(pointer=pointer, findings=(note,), decision_id=standing.decision_id, signed=standing.signed)

    def _form(
        self, version: ModelVersionRef, forms: dict[ModelVersionRef, FormManifest | UnreadableForm]
    ) -> FormManifest | UnreadableForm | None:
        if self._forms is None:
            return None
        if version not in forms:
            try:
                forms[version] = self._forms.read(version)
            except RegistryError as err:
                forms[version] = UnreadableForm(code=err.code, message=str(err))
        return forms[version]

    def _today(
        self, pointer: Pointer, form: FormManifest, policy_set: PolicySet, requester: str | None, now: datetime
    ) -> Decision:
        evidence: list[EvidenceItem] = []
        for stored in self._ledger.evidence_for(form.digest, pointer.target.workspace):
            try:
                verified = verify_evidence(stored.envelope, policy_set.signers)
            except EvidenceError as err:
                evidence.append(UnverifiedEvidence(digest=stored.digest, cause=str(err)))
                continue
            evidence.append(
                VerifiedEvidence(digest=verified.digest, assessment=verified.assessment, signers=verified.signers)
            )
        target = pointer.target
        policies = policy_set.governing(target).policies
        return decide(
            policies=policies,
            batteries=policy_set.batteries,
            form=form,
            evidence=evidence,
            calibrations=calibrations_of(policy_set),
            grants=grants_for(self._ledger, policy_set, policies, target.workspace, target.model, form.digest),
            break_glass=policy_set.break_glass,
            requester=requester,
            now=now,
        )


def _governed(pointer: Pointer, policy_set: PolicySet) -> bool:
    if pointer.version is not None and {pointer.version.source, pointer.version.location} <= PROMPT_LOCATIONS:
        return False
    governance = policy_set.governing(pointer.target)
    return governance.free is None and (bool(governance.policies) or governance.unmatched != "allow")


def _moving(pointer: Pointer) -> Standing:
    finding = Finding(
        code="moving",
        severity=Severity.NOTE,
        message=f"{pointer.target} was being moved all the while that it was read: it is judged at the next run",
    )
    return Standing(pointer=pointer, findings=(finding,), decision_id=None, signed=None)


def broken(standings: Sequence[Standing]) -> list[Standing]:
    """Those whose name means something that was not allowed: what a revocation takes away."""
    return [standing for standing in standings if standing.severity is Severity.INTEGRITY]
