"""Read and write the ledger.

Methods that take a `Connection` write in the caller's transaction (the promotion's own); the others open their own.
Every database failure comes out as `LedgerError`, which blocks promotions.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, Engine, Row, create_engine, delete, event, insert, or_, select, update
from sqlalchemy.exc import SQLAlchemyError

from registry_gate.decision import Decision
from registry_gate.errors import LedgerError
from registry_gate.form import canonical_json
from registry_gate.ledger import chain
from registry_gate.ledger.migrate import current_version, newest_version, upgrade
from registry_gate.ledger.tables import DECISION, EVIDENCE, REQUEST, WORKER
from registry_gate.promotion import Actor, ModelVersionRef, Move, Target

Clock = Callable[[], datetime]


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
    """

    id: str
    decided_at: datetime
    operation: str
    move: Move
    actor: Actor
    decision: Decision
    policy_set_digest: str | None

    def body(self) -> dict[str, Any]:
        """What the ledger and the audit chain keep, as JSON values."""
        version = self.move.version
        return {
            "id": self.id,
            "operation": self.operation,
            "target": {"kind": str(self.move.target.kind), "name": self.move.target.name, "key": str(self.move.target)},
            "workspace": version.workspace,
            "version": {
                "name": version.name,
                "version": version.version,
                "created_ms": version.created_ms,
                "location": version.location,
                "source": version.source,
            },
            "actor": {"name": self.actor.name, "kind": self.actor.kind, "address": self.actor.address},
            "policy_set": self.policy_set_digest,
            **self.decision.to_dict(),
        }


def fingerprint(body: Mapping[str, Any]) -> str:
    """Equal for two decisions (by their bodies) that say the same about the same move, whenever and whoever asked."""
    return _digest({key: value for key, value in body.items() if key not in ("id", "actor")})


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
    """

    def __init__(self, engine: Engine, clock: Clock = utc_now) -> None:
        self.engine = engine
        self.clock = clock

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
        with _as_ledger_error(), self.engine.begin() as connection:
            yield connection

    # -- decisions ----------------------------------------------------------------------------------------------------

    def record_decision(self, connection: Connection, stored: StoredDecision) -> str:
        """Write a decision and its audit entry. Returns the id under which it can be found.

        A denial that only repeats the last decision about the same target is not written again: clients retry
        (MLFLOW.md section 13), and the ledger says what was decided, not how often somebody asked.
        """
        key, body = target_key(stored.move.target), stored.body()
        said = fingerprint(body)
        if not stored.decision.allowed:
            last = connection.execute(
                select(DECISION.c.id, DECISION.c.fingerprint)
                .where(DECISION.c.target_key == key)
                .order_by(DECISION.c.decided_at.desc())
                .limit(1)
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
            )
        )
        chain.append(connection, at=at, event="decision", body=body)
        return stored.id

    def record_event(self, connection: Connection, kind: str, body: Mapping[str, Any]) -> int:
        """Write an audit entry that is no decision, e.g. a demotion."""
        return chain.append(connection, at=as_text(self.clock()), event=kind, body=body)

    def allowed_before(self, target: Target, form_digest: str) -> str | None:
        """Id of the latest decision that allowed this form on this target, or None."""
        with _as_ledger_error(), self.engine.connect() as connection:
            found = connection.execute(
                select(DECISION.c.id)
                .where(
                    DECISION.c.target_key == target_key(target),
                    DECISION.c.form_digest == form_digest,
                    DECISION.c.allowed.is_(True),
                )
                .order_by(DECISION.c.decided_at.desc())
                .limit(1)
            ).scalar()
        return None if found is None else str(found)

    def forms_of(self, version: ModelVersionRef) -> list[str]:
        """Digests of the forms that earlier decisions found under this very row, newest first."""
        with _as_ledger_error(), self.engine.connect() as connection:
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
        with _as_ledger_error(), self.engine.connect() as connection:
            return [{"decided_at": at, **json.loads(body)} for body, at in connection.execute(query)]

    def verify_chain(self) -> tuple[int, str]:
        """Number of audit entries and the latest hash. See `chain.verify`."""
        with _as_ledger_error(), self.engine.connect() as connection:
            return chain.verify(connection)

    # -- evidence -----------------------------------------------------------------------------------------------------

    def evidence_for(self, form_digest: str, workspace: str) -> list[StoredEvidence]:
        """All evidence that is filed under a form. Its rows are claims; verify before use."""
        query = select(EVIDENCE).where(EVIDENCE.c.form_digest == form_digest, EVIDENCE.c.workspace == workspace)
        with _as_ledger_error(), self.engine.connect() as connection:
            return [_evidence(row) for row in connection.execute(query.order_by(EVIDENCE.c.stored_at))]

    def evidence(self, digest: str) -> StoredEvidence | None:
        """One envelope by its digest."""
        with _as_ledger_error(), self.engine.connect() as connection:
            row = connection.execute(select(EVIDENCE).where(EVIDENCE.c.digest == digest)).one_or_none()
        return None if row is None else _evidence(row)

    def store_evidence(self, *, digest: str, form_digest: str, battery: str, workspace: str, envelope: bytes) -> None:
        """File an envelope. Storing the same one again changes nothing."""
        at = as_text(self.clock())
        with self.transaction() as connection:
            chain.lock(connection)
            if connection.execute(select(EVIDENCE.c.digest).where(EVIDENCE.c.digest == digest)).first() is not None:
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
                body={"digest": digest, "form": form_digest, "battery": battery, "workspace": workspace},
            )

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
        row = connection.execute(
            select(REQUEST).where(
                REQUEST.c.workspace == workspace,
                REQUEST.c.form_digest == form_digest,
                REQUEST.c.battery_digest == battery_digest,
            )
        ).one_or_none()
        return None if row is None else _request(row)

    def request(self, request_id: str) -> AssessmentRequest | None:
        """One request by id."""
        with _as_ledger_error(), self.engine.connect() as connection:
            row = connection.execute(select(REQUEST).where(REQUEST.c.id == request_id)).one_or_none()
        return None if row is None else _request(row)

    def requests(self, *, form_digest: str | None = None, limit: int = 100) -> list[AssessmentRequest]:
        """Requests, newest first."""
        query = select(REQUEST).order_by(REQUEST.c.requested_at.desc()).limit(limit)
        if form_digest is not None:
            query = query.where(REQUEST.c.form_digest == form_digest)
        with _as_ledger_error(), self.engine.connect() as connection:
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
        with _as_ledger_error(), self.engine.connect() as connection:
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


def _evidence(row: Row[Any]) -> StoredEvidence:
    return StoredEvidence(
        digest=row.digest,
        form_digest=row.form_digest,
        battery=row.battery,
        workspace=row.workspace,
        envelope=row.envelope.encode(),
        stored_at=row.stored_at,
    )
