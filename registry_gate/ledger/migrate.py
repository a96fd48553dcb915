"""Create the ledger's tables and bring them up to date, beside MLflow's own and with a version table of their own."""

from __future__ import annotations

import threading
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, inspect, text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from registry_gate.errors import LedgerError

VERSION_TABLE = "registry_gate_alembic_version"

_ADVISORY_LOCK = 0x7265676761746531
"""Key of PostgreSQL's advisory lock around an upgrade; any number that nobody else uses."""

_ONE_AT_A_TIME = threading.Lock()
"""alembic keeps the migration under way in module globals, so one process runs one upgrade at a time."""


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
        with engine.begin() as connection:
            _exclude_others(connection)
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
    except DBAPIError as err:
        # On a database without such a lock, the loser finds the tables made by the winner.
        if current_version(engine) != newest:
            raise LedgerError(f"expected to create the ledger's tables, got: {_cause(err)}") from err


def _exclude_others(connection: Connection) -> None:
    """Several server workers start at once: the others wait here, and then find nothing left to do.

    SQLite is also told to begin now, because Python's driver would otherwise commit after every CREATE TABLE and a
    process that is killed would leave half a schema behind.
    """
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    elif connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ADVISORY_LOCK})


def _cause(err: SQLAlchemyError) -> str:
    """The driver's own words; SQLAlchemy's text would show the statement and, for some drivers, the address."""
    return str(getattr(err, "orig", None) or type(err).__name__).splitlines()[0]
