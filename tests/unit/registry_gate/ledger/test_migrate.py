"""The schema: as the tables say, made once, whoever starts at the same time."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import create_engine, inspect, select, text

from registry_gate.errors import LedgerError
from registry_gate.ledger import Ledger
from registry_gate.ledger.migrate import VERSION_TABLE, current_version, newest_version, upgrade
from registry_gate.ledger.tables import METADATA, WORKER


def test_migrations_make_exactly_the_tables(ledger: Ledger) -> None:
    def ours(_object: object, name: str | None, kind: str, _reflected: bool, _other: object) -> bool:
        return kind != "table" or (str(name).startswith("registry_gate_") and name != VERSION_TABLE)

    options = {"compare_type": True, "include_object": ours, "version_table": VERSION_TABLE}
    with ledger.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection, opts=options), METADATA) == []


def test_upgrading_again_changes_nothing(ledger: Ledger) -> None:
    with ledger.transaction() as connection:
        ledger.record_event(connection, "kept", {})
    upgrade(ledger.engine)
    assert ledger.schema() == (newest_version(), newest_version())
    assert ledger.verify_chain()[0] == 1


def test_a_ledger_of_newer_code_is_refused(ledger: Ledger, uri: str) -> None:
    with ledger.transaction() as connection:
        connection.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = '9999'"))
    with pytest.raises(LedgerError) as caught:
        Ledger.connect(uri)
    assert str(caught.value) == (
        f"expected a ledger of schema {newest_version()} or older, got 9999: upgrade registry-gate on this machine"
    )
    assert current_version(ledger.engine) == "9999"


def test_threads_that_start_at_once_make_one_ledger(uri: str) -> None:
    with ThreadPoolExecutor(8) as pool:
        ledgers = list(pool.map(lambda _: Ledger.connect(uri), range(8)))
    assert {ledger.schema() for ledger in ledgers} == {(newest_version(), newest_version())}
    assert ledgers[0].verify_chain()[0] == 0
    for ledger in ledgers:
        ledger.engine.dispose()


def test_processes_that_start_at_once_make_one_ledger(uri: str) -> None:
    """As the workers of MLflow's server do."""
    code = "import sys; from registry_gate.ledger import Ledger; Ledger.connect(sys.argv[1])"
    started = [subprocess.Popen([sys.executable, "-c", code, uri], stderr=subprocess.PIPE, text=True) for _ in range(3)]
    assert [(process.communicate()[1], process.returncode) for process in started] == [("", 0)] * 3


def test_a_schema_is_made_whole_or_not_at_all(uri: str) -> None:
    engine = create_engine(uri)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE registry_gate_worker (id INTEGER)"))  # in the way of the fifth table
    # MariaDB cannot take a CREATE TABLE back, so there it must not even begin.
    found = r"some without a version \(registry_gate_worker\)" if engine.name == "mysql" else ".*registry_gate_worker"
    with pytest.raises(LedgerError, match=rf"expected to create the ledger's tables, got:? {found}"):
        upgrade(engine)
    assert inspect(engine).get_table_names() == ["registry_gate_worker"]
    with engine.begin() as connection:
        connection.execute(text("DROP TABLE registry_gate_worker"))
    upgrade(engine)
    assert current_version(engine) == newest_version()
    engine.dispose()


def test_every_database_compares_texts_letter_by_letter_and_holds_every_letter(ledger: Ledger) -> None:
    with ledger.transaction() as connection:
        for worker in ("one", "ONE", "öne", "💡"):
            connection.execute(WORKER.insert().values(id=worker, seen_at="", state="здоров 💡"))
        found = connection.execute(select(WORKER).where(WORKER.c.id == "ONE")).all()
    assert [tuple(row) for row in found] == [("ONE", "", "здоров 💡")]


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ("postgresql+psycopg://gate:hunter2@127.0.0.1:1/db", "expected a reachable database for the ledger, got "),
        ("sqlite:////nowhere/at/all.db", "unable to open database file"),
        ("hunter2", "expected a database URI for the ledger (sqlite:///..., postgresql+psycopg://...)"),
        ("foo://gate:hunter2@host/db", "expected a database URI for the ledger"),
        ("postgresql+psycopg://gate:hunter2@host:hunter2/db", "expected a database URI for the ledger"),
    ],
)
def test_a_database_that_cannot_be_had_is_named_without_its_password(address: str, sentence: str) -> None:
    with pytest.raises(LedgerError) as caught:
        Ledger.connect(address)
    assert sentence in str(caught.value)
    assert "hunter2" not in str(caught.value)
