"""Refuse every write of a promoted pointer that the gate did not just allow, in the transaction that writes it.

The store asks the gate before it writes; this looks at what is really written, whoever writes it in this process, and
whether the version is still the row that was decided on. Raw SQL on the engine is out of its reach (MLFLOW.md
section 8); `audit` compares pointers with decisions for that.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any

from mlflow.entities.model_registry.model_version_stages import STAGE_DELETED_INTERNAL
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import PERMISSION_DENIED
from mlflow.store.model_registry.dbmodels.models import SqlModelVersion, SqlRegisteredModel, SqlRegisteredModelAlias
from sqlalchemy import Connection, Engine, Insert, Update, event, false, inspect, select, text, update
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.orm import ORMExecuteState, Session
from sqlalchemy.orm.exc import StaleDataError

from registry_gate.mlflow_plugin.candidate import PROMPT_SOURCES
from registry_gate.promotion import PROMOTED_STAGES, Move, Target, TargetKind

_IDENTITY = ("version", "creation_time", "source", "storage_location")
"""Columns of a version that MLflow writes once. Decisions are about the row that they say."""

_BULK_GUARDED = {
    SqlRegisteredModelAlias.__tablename__: None,  # every column
    SqlModelVersion.__tablename__: {"current_stage", "name", "workspace", *_IDENTITY},
    SqlRegisteredModel.__tablename__: {"name"},  # aliases and stages travel with it
}
"""Columns that no statement over many rows may set, by table."""

_FLUSHING: ContextVar[bool] = ContextVar("registry_gate_flushing", default=False)
"""Whether what this thread writes now has been looked at object by object."""

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
        lock_wait_s: Longest wait for SQLite's lock, seconds; None for MLflow's own patience.

    Attributes:
        recorded: Whether `record` was called.
        checked: Moves whose version was seen to be the row that was decided on, in this transaction.
    """

    model: str
    workspace: str
    moves: tuple[Move, ...]
    record: Callable[[Connection], object]
    renames: tuple[str, str] | None = None
    lock_wait_s: float | None = None
    recorded: bool = field(default=False, init=False)
    checked: set[Move] = field(default_factory=set, init=False)


_PERMIT: ContextVar[Permit | None] = ContextVar("registry_gate_permit", default=None)
_WATCHED: dict[tuple[str, str | None, int | None, str | None], Callable[[Target], bool]] = {}
"""Databases that are watched, with who can tell whether a target is governed there."""


@contextmanager
def permitted(permit: Permit) -> Iterator[None]:
    """Let the calls inside write what the permit says."""
    token = _PERMIT.set(permit)
    try:
        yield
    finally:
        _PERMIT.reset(token)


def protect(engine: Engine, is_governed: Callable[[Target], bool]) -> None:
    """Watch every ORM session on the engine's database, whoever opens it and with whichever engine.

    Args:
        engine: An engine of the registry's database. MLflow opens others on it, e.g. to delete workspaces.
        is_governed: Whether a target is governed; true as well while nobody can tell.
    """
    if not event.contains(Session, "before_flush", _before_flush):
        event.listen(Session, "before_flush", _before_flush)
        event.listen(Session, "before_commit", _before_commit)
        event.listen(Session, "do_orm_execute", _do_orm_execute)
        event.listen(Session, "after_flush", _after_flush)
        event.listen(Session, "after_soft_rollback", _after_flush)
        event.listen(Engine, "before_execute", _before_execute)
    _WATCHED[_database_of(engine)] = is_governed


def _database_of(engine: Engine) -> tuple[str, str | None, int | None, str | None]:
    """What tells databases apart, however their address is written: not the user, the driver or the options."""
    url = engine.url
    name = url.database
    if engine.dialect.name == "sqlite" and name and name != ":memory:" and not name.startswith("file:"):
        name = os.path.realpath(name)
    return engine.dialect.name, url.host, url.port, name


def hold_in(session: Session) -> None:
    """Let nobody else delete, recreate, rename or promote the permit's model until this session is committed.

    Called before the session does anything else: whoever needs this lock takes it first, so nobody waits in a circle.

    Raises:
        MlflowException: The permit's patience ended (a refusal); without one, MLflow's own handling applies.
    """
    permit = _PERMIT.get()
    if permit is None:
        return
    try:
        _hold(session, permit)
    except OperationalError as err:
        if permit.lock_wait_s is None:
            raise
        raise refusal(
            f"expected the registry's database to be free within {permit.lock_wait_s:g} s, got: "
            f"{str(err.orig).splitlines()[0]}. Nothing was changed; ask again",
            "database_busy",
        ) from err


def _hold(session: Session, permit: Permit) -> None:
    if session.get_bind().dialect.name == "sqlite":
        if permit.lock_wait_s is not None:
            session.execute(text(f"PRAGMA busy_timeout = {int(1000 * permit.lock_wait_s)}"))
        # There are no row locks, and the driver begins a transaction with the first write only: without this write
        # of no row, another process could get between the checks of the flush and the pointer.
        session.execute(update(SqlModelVersion).where(false()).values(description=SqlModelVersion.description))
        return
    if session.get_bind().dialect.name in ("mysql", "mariadb"):
        # By default a transaction there goes on seeing what was so at its first read, whatever locks it waited for
        # since; what is checked before a pointer is written must be what is so now, as PostgreSQL answers.
        session.connection(execution_options={"isolation_level": "READ COMMITTED"})
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
        # A name that means this number already is not written again, so no flush looked at it: what is recorded must
        # be true of it all the same.
        for move in permit.moves:
            if move not in permit.checked:
                _require_same_row(session, move, move.target.model)
        permit.record(session.connection())
        permit.recorded = True
        session.info[_RECORDED] = True


def refusal(message: str, code: str, **more: Any) -> MlflowException:
    """The exception that MLflow turns into HTTP 403 with our payload (MLFLOW.md section 11), `more` included."""
    reason = {"code": code, "message": message, "verdict": "invalid", "blocking": True}
    return MlflowException(
        f"registry-gate: {message}",
        error_code=PERMISSION_DENIED,
        registry_gate={"decision": "denied", "verdict": "invalid", "reasons": [reason], **more},
    )


def _watched(session: Session) -> bool:
    return _governance_of(session) is not None


def _governance_of(session: Session) -> Callable[[Target], bool] | None:
    bind = session.get_bind()
    return _WATCHED.get(_database_of(bind.engine if isinstance(bind, Connection) else bind))


def _before_flush(session: Session, _context: object, _instances: object) -> None:
    if not _watched(session):
        return
    _look_at(session)
    _FLUSHING.set(True)


def _after_flush(_session: Session, _context: object) -> None:
    _FLUSHING.set(False)


def _before_execute(
    connection: Connection, statement: Any, multiparams: Any, _params: object, _options: object
) -> None:
    """The old bulk methods of sessions (`bulk_save_objects`, ...) and statements of the core pass the session's events.

    Statements that are text are out of reach.
    """
    if _FLUSHING.get() or not isinstance(statement, (Insert, Update)):
        return
    guarded = _BULK_GUARDED.get(getattr(statement.table, "name", ""), set())
    if guarded == set() or _database_of(connection.engine) not in _WATCHED:
        return
    values: Iterable[Any] = getattr(statement, "_values", None) or ()
    named = {getattr(column, "key", str(column)) for column in values}
    named |= {str(key) for row in multiparams for key in (row if isinstance(row, dict) else ())}
    if guarded is None or not named or named & guarded:
        raise _bulk_write()


def _bulk_write() -> MlflowException:
    return refusal(
        "expected promoted names to be moved one by one through the registry, got a bulk write", "bulk_write"
    )


def _look_at(session: Session) -> None:
    """Each object that is about to be written."""
    for row in session.dirty:
        if isinstance(row, SqlModelVersion) and row.current_stage != STAGE_DELETED_INTERNAL:
            _require_same_identity(row)
    for row in [*session.new, *session.dirty]:
        if isinstance(row, SqlRegisteredModelAlias) and (row in session.new or session.is_modified(row)):
            _require_same_spelling(session, row)
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
    for row in session.dirty:
        if isinstance(row, SqlModelVersion):
            _require_same_model(row)


def _before_commit(session: Session) -> None:
    if session.info.pop(_MOVED, False) and not session.info.pop(_RECORDED, False) and _watched(session):
        raise refusal("a promoted name would have been written without its decision", "unrecorded_write")


def _do_orm_execute(state: ORMExecuteState) -> None:
    if not (state.is_insert or state.is_update) or not _watched(state.session):
        return
    # The table rather than the entity: `insert(SqlRegisteredModelAlias.__table__)` names no entity.
    table = getattr(getattr(state.statement, "table", None), "name", None)
    if table == SqlRegisteredModel.__tablename__ and _sets(state, {"workspace"}):
        _require_nothing_promoted(state)
    if table in _BULK_GUARDED and _sets(state, _BULK_GUARDED[table]):
        raise _bulk_write()


def _require_nothing_promoted(state: ORMExecuteState) -> None:
    """Registered models that change their workspace carry their names along, to where nobody decided on them.

    MLflow does that in bulk when it deletes a workspace and keeps what it held.
    """
    session, governed, destination = state.session, _governance_of(state.session), _value_of(state, "workspace")
    criteria = getattr(state.statement, "_where_criteria", ())
    with session.no_autoflush:
        # Locked, so that no promotion of them comes between.
        moved: Any = session.execute(
            select(SqlRegisteredModel.name, SqlRegisteredModel.workspace).where(*criteria).with_for_update()
        ).all()
    for model, workspace in moved:
        for target, version in promoted_names(session, model, workspace):
            arriving = replace(target, workspace=str(destination))
            anybody_asks = governed is None or destination is None or governed(target) or governed(arriving)
            if anybody_asks and not _is_prompt(session, target, version):
                raise refusal(
                    f"expected models that change their workspace to have no promoted name, got {target} in workspace "
                    f"{workspace!r}: remove it, move the models, and promote them where they are then",
                    "workspace_move",
                )


def _is_prompt(session: Session, target: Target, version: int) -> bool:
    with session.no_autoflush:
        source: Any = session.execute(
            select(SqlModelVersion.source).where(
                SqlModelVersion.name == target.model,
                SqlModelVersion.workspace == target.workspace,
                SqlModelVersion.version == version,
            )
        ).scalar()
    return source in PROMPT_SOURCES


def _value_of(state: ORMExecuteState, column: str) -> Any:
    """What a statement sets a column to; None where that cannot be seen."""
    values: Any = getattr(state.statement, "_values", None) or {}
    found = [value for key, value in values.items() if getattr(key, "key", str(key)) == column]
    return getattr(found[0], "value", None) if len(found) == 1 else None


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
    if permit is not None:
        permit.checked.add(move)
    session.info[_MOVED] = True


def _require_same_identity(row: SqlModelVersion) -> None:
    """What a version is never changes; a deleted one is blanked, and no name can mean it any more."""
    attributes: Any = inspect(row).attrs
    written = [name for name in _IDENTITY if attributes[name].history.has_changes()]
    if written:
        raise refusal(
            f"expected version {row.version} of {row.name!r} to stay what it was registered as, got another "
            f"{', '.join(written)}: register a new version",
            "version_rewritten",
        )


def _require_same_model(row: SqlModelVersion) -> None:
    """A version stays with its model, unless the model is renamed with an allowed decision."""
    attributes: Any = inspect(row).attrs
    permit, name = _PERMIT.get(), attributes.name.history
    renamed = permit is not None and permit.renames == (next(iter(name.deleted or ()), None), row.name)
    if (name.has_changes() and not renamed) or attributes.workspace.history.has_changes():
        raise refusal(
            f"expected version {row.version} to stay with the model that it was registered for, got a move to "
            f"{row.name!r}: copy it",
            "version_rewritten",
        )


def _require_same_spelling(session: Session, row: SqlRegisteredModelAlias) -> None:
    """No alias row is called anything else than before.

    Where the database ignores letter case, `Candidate` written over `candidate` changes what both mean; the gate
    decided on the row's own name, so a row that came to be since is a reason to ask again.
    """
    if row in session.new:
        return
    attributes: Any = inspect(row).attrs
    if attributes.alias.history.has_changes() or attributes.name.history.has_changes():
        raise refusal(
            f"alias {row.alias!r} of {row.name!r} exists under another spelling, which somebody else set in the "
            "meantime: ask again",
            "target_changed",
        )


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
    carried = set()
    for target, version in promoted_names(session, old, workspace):
        renamed = Target(kind=target.kind, model=new, name=target.name, workspace=workspace)
        if (renamed, version) not in allowed:
            raise refusal(
                f"{target} was promoted while the rename to {new!r} was reviewed: ask again", "version_changed"
            )
        carried.add((renamed, version))
    if carried != allowed:
        # Else the ledger would say that a name was promoted which is not there, and a rollback could rest on it.
        raise refusal(
            f"a promoted name of {old!r} was removed while the rename to {new!r} was reviewed: ask again",
            "version_changed",
        )
    for move in permit.moves:
        _require_same_row(session, move, old)
        permit.checked.add(move)
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
