"""Read and write the ledger.

Methods that take a `Connection` write in the caller's transaction (the promotion's own); the others open their own.
Every database failure comes out as `LedgerError`, which blocks promotions.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    Connection,
    Engine,
    Row,
    create_engine,
    delete,
    event,
    func,
    insert,
    or_,
    select,
    union_all,
    update,
)
from sqlalchemy.exc import SQLAlchemyError

from registry_gate.decision import Decision
from registry_gate.errors import LedgerError
from registry_gate.form import canonical_json
from registry_gate.ledger import chain
from registry_gate.ledger.migrate import current_version, newest_version, upgrade
from registry_gate.ledger.tables import AUDIT, DECISION, EVIDENCE, GRANT, REQUEST, WORKER
from registry_gate.promotion import Actor, ModelVersionRef, Move, Target

Clock = Callable[[], datetime]

_AT_ONCE = 500
"""Ids in one query: below the number of variables that any database allows."""


def utc_now() -> datetime:
    """The real clock."""
    return datetime.now(UTC)


def as_text(moment: datetime) -> str:
    """A moment as the ledger stores it: UTC, microseconds, sortable."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


class RequestState(StrEnum):
    """Where an assessment request stands."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True, kw_only=True)
class AssessmentRequest:
    """A request to assess one form with one battery; there is one however often it is asked for.

    Args:
        id: Id that people follow (`registry-gate status ID`).
        workspace: MLflow workspace of the model version that was asked for first.
        form_digest: The form.
        battery: Battery id.
        battery_digest: Digest of the battery document in force when it was asked for.
        model: Registered model by which the form can be found.
        version: Version by which the form can be found.
        state: Where it stands.
        requested_at: When it was first asked for.
        updated_at: When it last moved.
        attempt: How often a worker started on it.
        round: How often it was queued again after it had ended.
        worker: Who works on it.
        progress: Words on how far it is, for people.
        failure_code: Reason code when it failed.
        failure: Sentence when it failed.
        evidence_digest: The evidence that it produced.
    """

    id: str
    workspace: str
    form_digest: str
    battery: str
    battery_digest: str
    model: str
    version: int
    state: RequestState
    requested_at: str
    updated_at: str
    attempt: int
    round: int
    worker: str | None
    progress: str | None
    failure_code: str | None
    failure: str | None
    evidence_digest: str | None


@dataclass(frozen=True, kw_only=True)
class StoredEvidence:
    """An envelope as it lies in the ledger. Nothing about it is verified."""

    digest: str
    form_digest: str
    battery: str
    workspace: str
    envelope: bytes
    stored_at: str


@dataclass(frozen=True, kw_only=True)
class StoredGrant:
    """What somebody signed, as it lies in the ledger. Nothing about it is verified.

    Args:
        id: Its id.
        kind: `waiver`, `approval` and their `revocation`; `opening` of break-glass, its `closing` or its `end` by
            time.
        workspace: Workspace of the form, or the one that break-glass covers.
        form_digest: The form; `ANY` for break-glass.
        policy: Name of the policy; `ANY` for break-glass.
        revokes: Id of what a revocation takes back, a closing closes, or an end ends.
        envelope: The signed bytes; empty for an end, which nobody signs.
        stored_at: When it was filed; empty before it is.
    """

    id: str
    kind: str
    workspace: str
    form_digest: str
    policy: str
    envelope: bytes
    revokes: str | None = None
    stored_at: str = ""


@dataclass(frozen=True, kw_only=True)
class StoredDecision:
    """A decision about one move, ready to be recorded.

    Args:
        id: Its id.
        decided_at: When.
        operation: The registry call.
        move: The target and the version it would mean.
        actor: Who asked.
        decision: What was decided.
        policy_set_digest: The policy set in force; None when none could be loaded.
        envelope: The decision signed by the gate; None for a denial, for what no policy governs, and for a rollback
            that cannot be signed.
    """

    id: str
    decided_at: datetime
    operation: str
    move: Move
    actor: Actor
    decision: Decision
    policy_set_digest: str | None
    envelope: bytes | None = None

    def body(self) -> dict[str, Any]:
        """What the ledger and the audit chain keep, as JSON values."""
        version = self.move.version
        return {
            "id": self.id,
            "operation": self.operation,
            "target": {
                "kind": str(self.move.target.kind),
                "model": self.move.target.model,
                "name": self.move.target.name,
                "key": str(self.move.target),
            },
            "workspace": version.workspace,
            "version": {
                "name": version.name,
                "version": version.version,
                "created_ms": version.created_ms,
                "location": version.location,
                "source": version.source,
            },
            "actor": self.actor.to_dict(),
            "policy_set": self.policy_set_digest,
            **self.decision.to_dict(),
        }


@dataclass(frozen=True, kw_only=True)
class RecordedDecision:
    """A decision as it lies in the ledger. Nothing about it is verified.

    Args:
        id: Its id.
        decided_at: When.
        allowed: What the row says about it.
        form_digest: The form that the row files it under.
        body: The text that was written, JSON.
        envelope: The signed decision, or None.
    """

    id: str
    decided_at: str
    allowed: bool
    form_digest: str | None
    body: str
    envelope: bytes | None


ANY = "*"
"""Form and policy of a grant that is of no one form and policy: break-glass."""

_GRANT_EVENTS = {
    "opening": "break_glass_opened",
    "closing": "break_glass_closed",
    "end": "break_glass_ended",
}
"""Events of the audit chain, where they are called otherwise than the kind of grant."""

# What break-glass let through was denied by the policies: it is never grounds for a rollback.
_NOT_BY_BREAK_GLASS = DECISION.c.body.not_like('%"break_glass":"%')


def fingerprint(body: Mapping[str, Any]) -> str:
    """Equal for two decisions (by their bodies) that say the same about the same move, whenever and whoever asked."""
    return _digest({key: value for key, value in body.items() if key not in ("id", "actor")})


_LATEST_MOMENT = union_all(
    select(select(AUDIT.c.at).order_by(AUDIT.c.seq.desc()).limit(1).scalar_subquery()),
    # The latest in time, not in order: the denial of a call at a time that was set back must not make that time good.
    select(select(DECISION.c.decided_at).order_by(DECISION.c.decided_at.desc()).limit(1).scalar_subquery()),
)


def model_key(version: ModelVersionRef) -> str:
    """Fixed-size key of a registered model."""
    return _digest([version.workspace, version.name])


def target_key(target: Target) -> str:
    """Fixed-size key of a target; model names and aliases can be longer than an index allows."""
    return _digest([target.workspace, str(target.kind), target.model, target.name])


def _digest(value: Any) -> str:
    return "sha256:" + hashlib.sha256(canonical_json(value)).hexdigest()


class Ledger:
    """The ledger in one database.

    Args:
        engine: SQLAlchemy engine; MLflow's own inside the server.
        clock: Source of the time that rows carry.
        lock_wait_s: Longest wait for SQLite's lock, seconds; None keeps what the engine's connections have.
    """

    def __init__(self, engine: Engine, clock: Clock = utc_now, *, lock_wait_s: float | None = None) -> None:
        if engine.dialect.name in ("mysql", "mariadb"):
            # As PostgreSQL answers: what is so now, and not what was so at the first read of the transaction.
            engine = engine.execution_options(isolation_level="READ COMMITTED")
        self.engine = engine
        self.clock = clock
        self._lock_wait_s = lock_wait_s if engine.dialect.name == "sqlite" else None

    @classmethod
    def connect(cls, uri: str, clock: Clock = utc_now) -> Ledger:
        """A ledger at a database URI, brought up to date.

        Raises:
            LedgerError: Not a database URI, unreachable, locked, or of a newer schema.
        """
        try:
            engine = create_engine(uri)
        except (SQLAlchemyError, ImportError, ValueError) as err:
            raise LedgerError(
                f"expected a database URI for the ledger (sqlite:///..., postgresql+psycopg://...), got one that "
                f"SQLAlchemy refuses: {type(err).__name__}"
            ) from err
        if engine.dialect.name == "sqlite":
            # The same patience as MLflow's own sessions, which share the file.
            event.listen(engine, "connect", lambda raw, _: raw.execute("PRAGMA busy_timeout = 20000"))
        try:
            upgrade(engine)
        except LedgerError:
            engine.dispose()
            raise
        return cls(engine, clock)

    def schema(self) -> tuple[str | None, str]:
        """(schema version of the database, schema version of this code)."""
        return current_version(self.engine), newest_version()

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """A transaction of our own; database failures come out as `LedgerError`."""
        with _as_ledger_error(), self.connection() as connection, connection.begin():
            yield connection

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        """A connection that waits for locks as long as this ledger may."""
        with self.engine.connect() as connection:
            if self._lock_wait_s is not None:
                # On the driver's own connection: MLflow sets its patience anew in each of its sessions.
                raw: Any = connection.connection.driver_connection
                raw.execute(f"PRAGMA busy_timeout = {int(1000 * self._lock_wait_s)}").close()
            yield connection

    # -- decisions ----------------------------------------------------------------------------------------------------

    def record_decision(self, connection: Connection, stored: StoredDecision) -> str:
        """Write a decision and its audit entry. Returns the id under which it can be found.

        A denial that only repeats the last decision about the same target is not written again: clients retry
        (MLFLOW.md section 13), and the ledger says what was decided, not how often somebody asked.
        """
        key, body = target_key(stored.move.target), stored.body()
        said = fingerprint(body)
        # Before anything else is read or written, or two who decide on one target at once wait for each other in MySQL.
        chain.lock(connection)
        if not stored.decision.allowed:
            last = connection.execute(
                select(DECISION.c.id, DECISION.c.fingerprint)
                .where(DECISION.c.target_key == key)
                .order_by(DECISION.c.decided_at.desc())
                .limit(1)
                .with_for_update()
            ).one_or_none()
            if last is not None and last.fingerprint == said:
                return str(last.id)
        version = stored.move.version
        at = as_text(stored.decided_at)
        connection.execute(
            insert(DECISION).values(
                id=stored.id,
                decided_at=at,
                operation=stored.operation,
                workspace=version.workspace,
                model_key=model_key(version),
                model=stored.move.target.model,
                version=version.version,
                version_created_ms=version.created_ms,
                target_kind=str(stored.move.target.kind),
                target_key=key,
                target_name=stored.move.target.name,
                form_digest=stored.decision.form_digest,
                verdict=str(stored.decision.verdict),
                allowed=stored.decision.allowed,
                policy_set_digest=stored.policy_set_digest,
                fingerprint=said,
                body=canonical_json(body).decode(),
                envelope=None if stored.envelope is None else stored.envelope.decode(),
            )
        )
        chain.append(connection, at=at, event="decision", body=body)
        return stored.id

    def lock(self, connection: Connection) -> None:
        """Let no other writer of the ledger in until the caller's transaction ends."""
        chain.lock(connection)

    def latest_moment(self) -> datetime | None:
        """The time of the last audit entry, or of a decision that is later still; None while there is neither."""
        with _as_ledger_error(), self.connection() as connection:
            found = [str(at) for at in connection.execute(_LATEST_MOMENT).scalars() if at is not None]
        return datetime.fromisoformat(max(found)) if found else None

    def record_event(
        self, connection: Connection, kind: str, body: Mapping[str, Any], *, at: datetime | None = None
    ) -> int:
        """Write an audit entry that is no decision, e.g. a demotion. `at` is when; now where it is not given."""
        return chain.append(connection, at=as_text(at or self.clock()), event=kind, body=body)

    def last_event(self, connection: Connection, kind: str) -> dict[str, Any] | None:
        """What the last audit entry of a kind says; None where there is none."""
        query = select(AUDIT.c.body).where(AUDIT.c.event == kind).order_by(AUDIT.c.seq.desc()).limit(1)
        body = connection.execute(query).scalar_one_or_none()
        return None if body is None else dict(json.loads(body))

    def events(self, kind: str) -> list[dict[str, Any]]:
        """What all audit entries of a kind say, oldest first, with `at` and `seq`. Nothing is verified."""
        query = select(AUDIT.c.seq, AUDIT.c.at, AUDIT.c.body).where(AUDIT.c.event == kind).order_by(AUDIT.c.seq)
        with _as_ledger_error(), self.connection() as connection:
            return [{"seq": int(seq), "at": at, **json.loads(body)} for seq, at, body in connection.execute(query)]

    def decided_by(self) -> dict[str, tuple[int, int]]:
        """(allowed, denied) decisions by the digest of the policy set that was in force."""
        query = select(DECISION.c.policy_set_digest, DECISION.c.allowed, func.count()).group_by(
            DECISION.c.policy_set_digest, DECISION.c.allowed
        )
        found: dict[str, tuple[int, int]] = {}
        with _as_ledger_error(), self.connection() as connection:
            for digest, allowed, count in connection.execute(query):
                if digest is not None:
                    before = found.get(digest, (0, 0))
                    found[digest] = (before[0] + count, before[1]) if allowed else (before[0], before[1] + count)
        return found

    def decision(self, decision_id: str) -> RecordedDecision | None:
        """One decision by its id. Its row is a claim: compare it with the audit chain and its signature."""
        found = self.decisions_by_id([decision_id])
        return found.get(decision_id)

    def decisions_by_id(self, ids: Sequence[str]) -> dict[str, RecordedDecision]:
        """Decisions by their ids; those that are not there are left out."""
        found: dict[str, RecordedDecision] = {}
        with _as_ledger_error(), self.connection() as connection:
            for start in range(0, len(ids), _AT_ONCE):
                query = select(DECISION).where(DECISION.c.id.in_(ids[start : start + _AT_ONCE]))
                found |= {row.id: _recorded(row) for row in connection.execute(query)}
        return found

    def signed_before(self, target: Target, form_digest: str) -> RecordedDecision | None:
        """The latest decision by which policies allowed this form on this target, signed; that is not verified here."""
        query = (
            select(DECISION)
            .where(
                DECISION.c.target_key == target_key(target),
                DECISION.c.form_digest == form_digest,
                DECISION.c.allowed.is_(True),
                DECISION.c.envelope.is_not(None),
                _NOT_BY_BREAK_GLASS,
            )
            .order_by(DECISION.c.decided_at.desc())
            .limit(1)
        )
        with _as_ledger_error(), self.connection() as connection:
            row = connection.execute(query).one_or_none()
        return None if row is None else _recorded(row)

    def allowed_before(self, target: Target, form_digest: str) -> str | None:
        """Id of the latest decision by which policies, not break-glass, allowed this form on this target, or None."""
        with _as_ledger_error(), self.connection() as connection:
            found = connection.execute(
                select(DECISION.c.id)
                .where(
                    DECISION.c.target_key == target_key(target),
                    DECISION.c.form_digest == form_digest,
                    DECISION.c.allowed.is_(True),
                    _NOT_BY_BREAK_GLASS,
                )
                .order_by(DECISION.c.decided_at.desc())
                .limit(1)
            ).scalar()
        return None if found is None else str(found)

    def forms_of(self, version: ModelVersionRef) -> list[str]:
        """Digests of the forms that earlier decisions found under this very row, newest first."""
        with _as_ledger_error(), self.connection() as connection:
            rows = connection.execute(
                select(DECISION.c.form_digest)
                .where(
                    DECISION.c.model_key == model_key(version),
                    DECISION.c.version == version.version,
                    DECISION.c.version_created_ms == version.created_ms,
                    DECISION.c.form_digest.is_not(None),
                )
                .order_by(DECISION.c.decided_at.desc())
                .limit(20)
            ).scalars()
            return list(dict.fromkeys(str(digest) for digest in rows))

    def decisions(
        self, *, model: str | None = None, version: int | None = None, limit: int = 100
    ) -> list[dict[str, Any]]:
        """Recorded decisions, newest first, as they were written, with `decided_at`."""
        query = select(DECISION.c.body, DECISION.c.decided_at).order_by(DECISION.c.decided_at.desc()).limit(limit)
        if model is not None:
            query = query.where(DECISION.c.model == model)
        if version is not None:
            query = query.where(DECISION.c.version == version)
        with _as_ledger_error(), self.connection() as connection:
            return [{"decided_at": at, **json.loads(body)} for body, at in connection.execute(query)]

    def verify_chain(self, visit: Callable[[chain.Entry], object] | None = None) -> tuple[int, str]:
        """Number of audit entries and the latest hash. See `chain.verify`."""
        with _as_ledger_error(), self.connection() as connection:
            return chain.verify(connection, visit)

    def visit_audit(self, visit: Callable[[chain.Entry], object], after: int = 0) -> None:
        """Call `visit` with every audit entry behind number `after`, oldest first. Nothing is verified."""
        with _as_ledger_error(), self.connection() as connection:
            for entry in chain.entries(connection, after):
                visit(entry)

    # -- evidence -----------------------------------------------------------------------------------------------------

    def evidence_for(self, form_digest: str, workspace: str) -> list[StoredEvidence]:
        """All evidence that is filed under a form. Its rows are claims; verify before use."""
        query = select(EVIDENCE).where(EVIDENCE.c.form_digest == form_digest, EVIDENCE.c.workspace == workspace)
        with _as_ledger_error(), self.connection() as connection:
            return [_evidence(row) for row in connection.execute(query.order_by(EVIDENCE.c.stored_at))]

    def evidence(self, digest: str) -> StoredEvidence | None:
        """One envelope by its digest."""
        with _as_ledger_error(), self.connection() as connection:
            row = connection.execute(select(EVIDENCE).where(EVIDENCE.c.digest == digest)).one_or_none()
        return None if row is None else _evidence(row)

    def store_evidence(
        self,
        *,
        digest: str,
        form_digest: str,
        battery: str,
        workspace: str,
        envelope: bytes,
        supersedes: str | None = None,
    ) -> None:
        """File an envelope. Storing the same one again changes nothing.

        Args:
            digest: Of the envelope.
            form_digest: The form that it is of.
            battery: Id of its battery.
            workspace: Workspace of the form.
            envelope: The bytes.
            supersedes: Digest of the evidence of the same measurement that it takes the place of: requests that were
                answered with that one are answered with this one. The old evidence stays.
        """
        at = as_text(self.clock())
        with self.transaction() as connection:
            chain.lock(connection)
            filed = select(EVIDENCE.c.digest).where(EVIDENCE.c.digest == digest)
            if connection.execute(filed).first() is not None:
                return
            connection.execute(
                insert(EVIDENCE).values(
                    digest=digest,
                    form_digest=form_digest,
                    battery=battery,
                    workspace=workspace,
                    envelope=envelope.decode(),
                    stored_at=at,
                )
            )
            chain.append(
                connection,
                at=at,
                event="evidence",
                body={
                    "digest": digest,
                    "form": form_digest,
                    "battery": battery,
                    "workspace": workspace,
                    **({} if supersedes is None else {"supersedes": supersedes}),
                },
            )
            if supersedes is not None:
                connection.execute(
                    update(REQUEST).where(REQUEST.c.evidence_digest == supersedes).values(evidence_digest=digest)
                )

    # -- what people granted ------------------------------------------------------------------------------------------

    def store_grant(self, grant: StoredGrant) -> bool:
        """File what somebody signed, with its audit entry. False where its id is filed already: nothing changes."""
        at = as_text(self.clock())
        with self.transaction() as connection:
            chain.lock(connection)
            if connection.execute(select(GRANT.c.id).where(GRANT.c.id == grant.id)).first() is not None:
                return False
            connection.execute(
                insert(GRANT).values(
                    id=grant.id,
                    kind=grant.kind,
                    workspace=grant.workspace,
                    form_digest=grant.form_digest,
                    policy=grant.policy,
                    revokes=grant.revokes,
                    envelope=grant.envelope.decode(),
                    stored_at=at,
                )
            )
            body = {
                "id": grant.id,
                "workspace": grant.workspace,
                "form": grant.form_digest,
                "policy": grant.policy,
                **({} if grant.revokes is None else {"revokes": grant.revokes}),
                "envelope": hashlib.sha256(grant.envelope).hexdigest(),
            }
            chain.append(connection, at=at, event=_GRANT_EVENTS.get(grant.kind, grant.kind), body=body)
        return True

    def taken_back(self, connection: Connection, ids: Collection[str]) -> bool:
        """Whether anything that is filed takes one of these grants back."""
        query = select(GRANT.c.id).where(GRANT.c.revokes.in_(ids), GRANT.c.kind.in_(("revocation", "closing")))
        return bool(ids) and connection.execute(query).first() is not None

    def grants(self, *, workspace: str | None = None, policies: Sequence[str] | None = None) -> list[StoredGrant]:
        """What is filed, oldest first: of all, or of some policies and one workspace. Rows are claims; verify them."""
        query = select(GRANT).order_by(GRANT.c.stored_at, GRANT.c.id)
        if workspace is not None:
            query = query.where(GRANT.c.workspace == workspace)
        if policies is not None:
            query = query.where(GRANT.c.policy.in_(policies))
        with _as_ledger_error(), self.connection() as connection:
            return [
                StoredGrant(
                    id=row.id,
                    kind=row.kind,
                    workspace=row.workspace,
                    form_digest=row.form_digest,
                    policy=row.policy,
                    revokes=row.revokes,
                    envelope=row.envelope.encode(),
                    stored_at=row.stored_at,
                )
                for row in connection.execute(query)
            ]

    # -- assessment requests ------------------------------------------------------------------------------------------

    def request_assessment(
        self,
        connection: Connection,
        *,
        workspace: str,
        form_digest: str,
        battery: str,
        battery_digest: str,
        model: str,
        version: int,
        again: bool = False,
    ) -> AssessmentRequest:
        """The request for a form and battery, made when there is none.

        Args:
            connection: The caller's transaction.
            workspace: Workspace of the model version.
            form_digest: The form.
            battery: Battery id.
            battery_digest: Battery in force.
            model: Where the form can be found.
            version: Where the form can be found.
            again: Queue it once more when it is done or failed.
        """
        # Two who ask in the same moment come through here one after the other; the second finds the first one's.
        chain.lock(connection)
        existing = self._find_request(connection, workspace, form_digest, battery_digest)
        at = as_text(self.clock())
        if existing is None:
            request_id = str(uuid.uuid4())
            values = {
                "id": request_id,
                "workspace": workspace,
                "form_digest": form_digest,
                "battery": battery,
                "battery_digest": battery_digest,
                "model": model,
                "version": version,
                "state": RequestState.QUEUED.value,
                "requested_at": at,
                "updated_at": at,
                "attempt": 0,
                "round": 0,
            }
            connection.execute(insert(REQUEST).values(**values))
            chain.append(connection, at=at, event="assessment_requested", body=values)
            existing = self._find_request(connection, workspace, form_digest, battery_digest)
            if existing is None:
                raise LedgerError("expected the assessment request that was just written, got none")
        elif again and existing.state in (RequestState.DONE, RequestState.FAILED):
            connection.execute(
                update(REQUEST)
                .where(REQUEST.c.id == existing.id)
                .values(
                    state=RequestState.QUEUED.value,
                    round=existing.round + 1,
                    updated_at=at,
                    model=model,
                    version=version,
                    worker=None,
                    failure=None,
                    failure_code=None,
                    progress=None,
                )
            )
            body = {"id": existing.id, "round": existing.round + 1, "model": model, "version": version}
            chain.append(connection, at=at, event="assessment_requested_again", body=body)
            existing = self._find_request(connection, workspace, form_digest, battery_digest) or existing
        return existing

    def _find_request(
        self, connection: Connection, workspace: str, form_digest: str, battery_digest: str
    ) -> AssessmentRequest | None:
        # FOR UPDATE, or MySQL answers from before the lock that the caller waited for.
        row = connection.execute(
            select(REQUEST)
            .where(
                REQUEST.c.workspace == workspace,
                REQUEST.c.form_digest == form_digest,
                REQUEST.c.battery_digest == battery_digest,
            )
            .with_for_update()
        ).one_or_none()
        return None if row is None else _request(row)

    def request(self, request_id: str) -> AssessmentRequest | None:
        """One request by id."""
        with _as_ledger_error(), self.connection() as connection:
            row = connection.execute(select(REQUEST).where(REQUEST.c.id == request_id)).one_or_none()
        return None if row is None else _request(row)

    def requests(self, *, form_digest: str | None = None, limit: int = 100) -> list[AssessmentRequest]:
        """Requests, newest first."""
        query = select(REQUEST).order_by(REQUEST.c.requested_at.desc()).limit(limit)
        if form_digest is not None:
            query = query.where(REQUEST.c.form_digest == form_digest)
        with _as_ledger_error(), self.connection() as connection:
            return [_request(row) for row in connection.execute(query)]

    def claim(self, worker: str, lease: timedelta) -> AssessmentRequest | None:
        """Take the oldest request that is queued, or whose worker's lease ran out, or that is this worker's own.

        One UPDATE with the old state in its WHERE decides between workers, so that none is taken twice.
        """
        now = self.clock()
        at = as_text(now)
        free = or_(
            REQUEST.c.state == RequestState.QUEUED.value,
            (REQUEST.c.state == RequestState.RUNNING.value)
            & ((REQUEST.c.lease_until < at) | (REQUEST.c.worker == worker)),
        )
        with self.transaction() as connection:
            for row in connection.execute(
                select(REQUEST.c.id, REQUEST.c.attempt).where(free).order_by(REQUEST.c.requested_at).limit(10)
            ).all():
                taken = connection.execute(
                    update(REQUEST)
                    .where(REQUEST.c.id == row.id, REQUEST.c.attempt == row.attempt, free)
                    .values(
                        state=RequestState.RUNNING.value,
                        worker=worker,
                        lease_until=as_text(now + lease),
                        attempt=row.attempt + 1,
                        updated_at=at,
                    )
                )
                if taken.rowcount == 1:
                    return _request(connection.execute(select(REQUEST).where(REQUEST.c.id == row.id)).one())
        return None

    def report_progress(self, request_id: str, worker: str, lease: timedelta, progress: str) -> bool:
        """Extend the lease and say how far it is. False when another worker has taken the request over."""
        now = self.clock()
        with self.transaction() as connection:
            kept = connection.execute(
                update(REQUEST)
                .where(REQUEST.c.id == request_id, REQUEST.c.worker == worker)
                .where(REQUEST.c.state == RequestState.RUNNING.value)
                .values(lease_until=as_text(now + lease), progress=progress, updated_at=as_text(now))
            )
        return kept.rowcount == 1

    def finish(self, request_id: str, worker: str, evidence_digest: str) -> bool:
        """The request is done. False, and nothing written, when another worker has taken it over."""
        return self._end(request_id, worker, state=RequestState.DONE, evidence_digest=evidence_digest)

    def fail(self, request_id: str, worker: str, code: str, failure: str) -> bool:
        """The request failed; it stays failed until somebody asks for it again. False as in `finish`."""
        return self._end(request_id, worker, state=RequestState.FAILED, failure_code=code[:64], failure=failure[:4000])

    def _end(self, request_id: str, worker: str, *, state: RequestState, **values: str) -> bool:
        at = as_text(self.clock())
        with self.transaction() as connection:
            chain.lock(connection)
            ended = connection.execute(
                update(REQUEST)
                .where(REQUEST.c.id == request_id, REQUEST.c.worker == worker)
                .where(REQUEST.c.state == RequestState.RUNNING.value)
                .values(state=state.value, updated_at=at, lease_until=None, progress=None, **values)
            )
            if ended.rowcount != 1:
                return False
            chain.append(
                connection,
                at=at,
                event=f"assessment_{state}",
                body={"request": request_id, "worker": worker, **values},
            )
        return True

    # -- workers ------------------------------------------------------------------------------------------------------

    def worker_seen(self, worker: str, state: str) -> None:
        """A worker says that it is alive."""
        at = as_text(self.clock())
        with self.transaction() as connection:
            connection.execute(delete(WORKER).where(WORKER.c.id == worker))
            connection.execute(insert(WORKER).values(id=worker, seen_at=at, state=state))

    def workers(self) -> list[tuple[str, str, str]]:
        """(id, last seen, state) of all workers, latest first."""
        with _as_ledger_error(), self.connection() as connection:
            rows = connection.execute(select(WORKER).order_by(WORKER.c.seen_at.desc())).all()
        return [(row.id, row.seen_at, row.state) for row in rows]


@contextmanager
def _as_ledger_error() -> Iterator[None]:
    try:
        yield
    except SQLAlchemyError as err:
        cause = str(getattr(err, "orig", None) or type(err).__name__).splitlines()[0]
        raise LedgerError(
            f"expected the ledger's database to answer, got: {cause}. Nothing was written; ask again", code="ledger"
        ) from err


def _request(row: Row[Any]) -> AssessmentRequest:
    fields = {name: value for name, value in row._mapping.items() if name != "lease_until"}
    return AssessmentRequest(**{**fields, "state": RequestState(fields["state"])})


def _recorded(row: Row[Any]) -> RecordedDecision:
    return RecordedDecision(
        id=row.id,
        decided_at=row.decided_at,
        allowed=bool(row.allowed),
        form_digest=row.form_digest,
        body=row.body,
        envelope=None if row.envelope is None else row.envelope.encode(),
    )


def _evidence(row: Row[Any]) -> StoredEvidence:
    return StoredEvidence(
        digest=row.digest,
        form_digest=row.form_digest,
        battery=row.battery,
        workspace=row.workspace,
        envelope=row.envelope.encode(),
        stored_at=row.stored_at,
    )
