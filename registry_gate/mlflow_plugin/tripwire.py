"""Refuse every write of a promoted pointer that the gate did not just allow, in the transaction that writes it.

The store asks the gate before it writes; this looks at what is really written, whoever writes it in this process, and
whether the version is still the row that was decided on. Raw SQL on the engine is out of its reach (MLFLOW.md
section 8); `audit` compares pointers with decisions for that.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from mlflow.entities.model_registry.model_version_stages import STAGE_DELETED_INTERNAL
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import PERMISSION_DENIED
from mlflow.store.model_registry.dbmodels.models import SqlModelVersion, SqlRegisteredModel, SqlRegisteredModelAlias
from sqlalchemy import Connection, Engine, event, false, inspect, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import ORMExecuteState, Session
from sqlalchemy.orm.exc import StaleDataError

from registry_gate.promotion import PROMOTED_STAGES, Move, Target, TargetKind

_BULK_GUARDED = {
    SqlRegisteredModelAlias.__tablename__: None,  # every column
    SqlModelVersion.__tablename__: {"current_stage", "name"},
    SqlRegisteredModel.__tablename__: {"name"},  # aliases travel with it
}
"""Columns that no statement over many rows may set, by table."""

_MOVED = "registry_gate_moved"
_RECORDED = "registry_gate_recorded"


@dataclass
class Permit:
    """What the gate allowed the current call to write.

    Args:
        model: The registered model that the call is about, under its present name.
        workspace: Its workspace.
        moves: The moves that were decided on.
        record: Writes decisions and audit entries; called once, in the transaction of the pointer.
        renames: `(old, new)` names of a registered model that may change.
    """

    model: str
    workspace: str
    moves: tuple[Move, ...]
    record: Callable[[Connection], object]
    renames: tuple[str, str] | None = None
    recorded: bool = field(default=False, init=False)


_PERMIT: ContextVar[Permit | None] = ContextVar("registry_gate_permit", default=None)
_ENGINES: weakref.WeakSet[Engine] = weakref.WeakSet()


@contextmanager
def permitted(permit: Permit) -> Iterator[None]:
    """Let the calls inside write what the permit says."""
    token = _PERMIT.set(permit)
    try:
        yield
    finally:
        _PERMIT.reset(token)


def protect(engine: Engine) -> None:
    """Watch every ORM session on this engine, whoever opens it. Repeated calls change nothing."""
    if not event.contains(Session, "before_flush", _before_flush):
        event.listen(Session, "before_flush", _before_flush)
        event.listen(Session, "before_commit", _before_commit)
        event.listen(Session, "do_orm_execute", _do_orm_execute)
    _ENGINES.add(engine)


def hold_in(session: Session) -> None:
    """Let nobody else delete, recreate, rename or promote the permit's model until this session is committed.

    Called before the session does anything else: whoever needs this lock takes it first, so nobody waits in a circle.
    """
    permit = _PERMIT.get()
    if permit is None:
        return
    if session.get_bind().dialect.name == "sqlite":
        # There are no row locks, and the driver begins a transaction with the first write only: without this write
        # of no row, another process could get between the checks of the flush and the pointer.
        session.execute(update(SqlModelVersion).where(false()).values(version=SqlModelVersion.version))
        return
    session.execute(
        select(SqlRegisteredModel.name)
        .where(SqlRegisteredModel.name == permit.model, SqlRegisteredModel.workspace == permit.workspace)
        .with_for_update()
    )


def record_in(session: Session) -> None:
    """Write what the current permit must record into a session that is about to be committed."""
    permit = _PERMIT.get()
    if permit is not None and not permit.recorded:
        try:
            session.flush()
        except (StaleDataError, IntegrityError) as err:
            raise refusal(
                "the name was moved or removed by somebody else in the meantime, so nothing was changed: ask again",
                "target_changed",
            ) from err
        permit.record(session.connection())
        permit.recorded = True
        session.info[_RECORDED] = True


def refusal(message: str, code: str) -> MlflowException:
    """The exception that MLflow turns into HTTP 403 with our payload (MLFLOW.md section 11)."""
    reason = {"code": code, "message": message, "verdict": "invalid", "blocking": True}
    return MlflowException(
        f"registry-gate: {message}",
        error_code=PERMISSION_DENIED,
        registry_gate={"decision": "denied", "verdict": "invalid", "reasons": [reason]},
    )


def _watched(session: Session) -> bool:
    bind = session.get_bind()
    return (bind.engine if isinstance(bind, Connection) else bind) in _ENGINES


def _before_flush(session: Session, _context: object, _instances: object) -> None:
    if not _watched(session):
        return
    for row in [*session.new, *session.dirty]:
        if isinstance(row, SqlRegisteredModelAlias) and (row in session.new or session.is_modified(row)):
            target = Target(kind=TargetKind.ALIAS, model=row.name, name=row.alias, workspace=_workspace(row))
            _require(session, target, int(row.version))
        elif isinstance(row, SqlModelVersion) and row.current_stage in PROMOTED_STAGES:
            stage = inspect(row).attrs.current_stage.history
            if stage.has_changes():
                target = Target(
                    kind=TargetKind.STAGE, model=row.name, name=row.current_stage, workspace=_workspace(row)
                )
                _require(session, target, int(row.version))
        elif isinstance(row, SqlRegisteredModel):
            name = inspect(row).attrs.name.history
            if row not in session.new and name.has_changes():
                _require_rename(session, row, name.deleted, row.name)


def _before_commit(session: Session) -> None:
    if session.info.pop(_MOVED, False) and not session.info.pop(_RECORDED, False) and _watched(session):
        raise refusal("a promoted name would have been written without its decision", "unrecorded_write")


def _do_orm_execute(state: ORMExecuteState) -> None:
    if not (state.is_insert or state.is_update) or not _watched(state.session):
        return
    # The table rather than the entity: `insert(SqlRegisteredModelAlias.__table__)` names no entity.
    table = getattr(getattr(state.statement, "table", None), "name", None)
    if table in _BULK_GUARDED and _sets(state, _BULK_GUARDED[table]):
        raise refusal(
            "expected promoted names to be moved one by one through the registry, got a bulk write", "bulk_write"
        )


def _sets(state: ORMExecuteState, columns: set[str] | None) -> bool:
    values: Iterable[Any] = getattr(state.statement, "_values", None) or ()
    named = {getattr(column, "key", str(column)) for column in values}
    # A statement whose columns cannot be seen is treated as one that sets them.
    return columns is None or not named or bool(named & columns)


def _require(session: Session, target: Target, version: int) -> None:
    permit = _PERMIT.get()
    move = next(
        (m for m in (permit.moves if permit else ()) if m.target == target and m.version.version == version), None
    )
    if move is None:
        raise refusal(f"{target} -> version {version} was written without an allowed decision", "unreviewed_write")
    _require_same_row(session, move, target.model)
    session.info[_MOVED] = True


def _require_same_row(session: Session, move: Move, model: str) -> None:
    """The version is still the row that was decided on; locked until the pointer is committed."""
    with session.no_autoflush:
        found: Any = session.execute(
            select(SqlModelVersion.creation_time, SqlModelVersion.storage_location)
            .where(
                SqlModelVersion.name == model,
                SqlModelVersion.version == move.version.version,
                SqlModelVersion.workspace == move.version.workspace,
                SqlModelVersion.current_stage != STAGE_DELETED_INTERNAL,
            )
            .with_for_update()
        ).one_or_none()
    decided = (move.version.created_ms, move.version.location)
    if found is None or tuple(found) != decided:
        raise refusal(
            f"{move.version} is no longer the version that was decided on (it was deleted or registered anew "
            "in the meantime): ask again",
            "version_changed",
        )


def _require_rename(session: Session, row: SqlRegisteredModel, old_names: Iterable[str], new: str) -> None:
    """Every name that is promoted now must be in the permit under the new name: one may have been added since."""
    permit = _PERMIT.get()
    old = next(iter(old_names), "")
    if permit is None or permit.renames != (old, new):
        raise refusal(f"{old!r} -> {new!r} was renamed without an allowed decision", "unreviewed_write")
    workspace = _workspace(row)
    allowed = {(m.target, m.version.version) for m in permit.moves}
    for target, version in promoted_names(session, old, workspace):
        renamed = Target(kind=target.kind, model=new, name=target.name, workspace=workspace)
        if (renamed, version) not in allowed:
            raise refusal(
                f"{target} was promoted while the rename to {new!r} was reviewed: ask again", "version_changed"
            )
    for move in permit.moves:
        _require_same_row(session, move, old)
    session.info[_MOVED] = True


def promoted_names(session: Session, model: str, workspace: str) -> list[tuple[Target, int]]:
    """Every alias and promoted stage of a registered model with the version it means now."""
    with session.no_autoflush:
        aliases: Any = session.execute(
            select(SqlRegisteredModelAlias.alias, SqlRegisteredModelAlias.version).where(
                SqlRegisteredModelAlias.name == model, SqlRegisteredModelAlias.workspace == workspace
            )
        ).all()
        staged: Any = session.execute(
            select(SqlModelVersion.current_stage, SqlModelVersion.version).where(
                SqlModelVersion.name == model,
                SqlModelVersion.workspace == workspace,
                SqlModelVersion.current_stage.in_(PROMOTED_STAGES),
            )
        ).all()
    return [
        (Target(kind=kind, model=model, name=name, workspace=workspace), int(version))
        for kind, rows in ((TargetKind.ALIAS, aliases), (TargetKind.STAGE, staged))
        for name, version in rows
    ]


def _workspace(row: Any) -> str:
    return str(row.workspace or "default")
