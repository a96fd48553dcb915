"""Create the ledger's tables and bring them up to date, beside MLflow's own and with a version table of their own."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, inspect, text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from registry_gate.errors import LedgerError

VERSION_TABLE = "registry_gate_alembic_version"

_ADVISORY_LOCK = 0x7265676761746531
"""Key of PostgreSQL's advisory lock around an upgrade; any number that nobody else uses."""

_MYSQL = ("mysql", "mariadb")

_ONE_AT_A_TIME = threading.Lock()
"""alembic keeps the migration under way in module globals, so one process runs one upgrade at a time."""

_PATIENCE_S = 60
"""Longest wait for another process that makes the tables, where the database does not know when it is gone."""


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    return config


def newest_version() -> str:
    """The schema version that this code writes."""
    head = ScriptDirectory.from_config(_config()).get_current_head()
    if head is None:
        raise LedgerError("expected migrations in the installed package, got none: install registry-gate again")
    return head


def current_version(engine: Engine) -> str | None:
    """The schema version of the database, None before the first upgrade.

    Raises:
        LedgerError: The database cannot be reached.
    """
    try:
        with engine.connect() as connection:
            if not inspect(connection).has_table(VERSION_TABLE):
                return None
            return connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar()  # noqa: S608
    except SQLAlchemyError as err:
        raise LedgerError(
            f"expected a reachable database for the ledger, got {type(err).__name__}: {_cause(err)}"
        ) from err


def upgrade(engine: Engine) -> None:
    """Bring the ledger to this code's schema; does nothing when it is there already.

    Raises:
        LedgerError: Unreachable or locked database, or a schema written by newer code.
    """
    with _ONE_AT_A_TIME:
        _upgrade(engine)


def _upgrade(engine: Engine) -> None:
    newest = newest_version()
    current = current_version(engine)
    if current == newest:
        return
    known = {script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()}
    if current is not None and current not in known:
        raise LedgerError(
            f"expected a ledger of schema {newest} or older, got {current}: upgrade registry-gate on this machine"
        )
    config = _config()
    try:
        with engine.begin() as connection, _alone(connection):
            if current is None:
                _refuse_leftovers(connection)
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
    except DBAPIError as err:
        # On a database without such a lock, the loser finds the tables made by the winner.
        if current_version(engine) != newest:
            raise LedgerError(f"expected to create the ledger's tables, got: {_cause(err)}") from err


@contextmanager
def _alone(connection: Connection) -> Iterator[None]:
    """Several server workers start at once: the others wait here, and then find nothing left to do.

    SQLite is also told to begin now, because Python's driver would otherwise commit after every CREATE TABLE and a
    process that is killed would leave half a schema behind.
    """
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    elif connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ADVISORY_LOCK})
    elif connection.dialect.name in _MYSQL:
        # Every CREATE TABLE commits there, so a lock of the session it must be; its name holds for the whole server.
        key = "registry_gate_" + hashlib.sha256(str(connection.engine.url.database).encode()).hexdigest()[:32]
        if (
            connection.execute(text("SELECT GET_LOCK(:key, :patience)"), {"key": key, "patience": _PATIENCE_S}).scalar()
            != 1
        ):
            raise LedgerError(
                f"expected to create the ledger's tables, got no lock within {_PATIENCE_S} s: another process is at it"
            )
        try:
            yield
        finally:
            connection.execute(text("SELECT RELEASE_LOCK(:key)"), {"key": key})
        return
    yield


def _refuse_leftovers(connection: Connection) -> None:
    """MySQL cannot take a CREATE TABLE back: a process that was killed between two of them left some behind.

    Raises:
        LedgerError: Tables of ours without a version. Nothing can have been recorded in them yet.
    """
    if (
        connection.dialect.name not in _MYSQL
        or MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE}).get_current_revision()
    ):
        return
    left = sorted(name for name in inspect(connection).get_table_names() if name.startswith("registry_gate_"))
    left = [name for name in left if name != VERSION_TABLE]
    if left:
        raise LedgerError(
            f"expected to create the ledger's tables, got some without a version ({', '.join(left)}), as an upgrade "
            f"leaves them that was killed: if they are empty, drop them and start again; else restore {VERSION_TABLE}"
        )


def _cause(err: SQLAlchemyError) -> str:
    """The driver's own words; SQLAlchemy's text would show the statement and, for some drivers, the address."""
    return str(getattr(err, "orig", None) or type(err).__name__).splitlines()[0]
