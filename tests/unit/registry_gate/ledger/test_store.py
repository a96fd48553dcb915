"""Decisions, evidence, requests and the audit chain, written by many at once."""

from __future__ import annotations

import sqlite3
import threading
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, create_engine, delete, event, insert, select, text, update

from registry_gate.decision import Decision, Reason, Verdict
from registry_gate.errors import IntegrityError, LedgerError
from registry_gate.ledger import AssessmentRequest, Ledger, RequestState, StoredDecision
from registry_gate.ledger import chain as audit_chain
from registry_gate.ledger.tables import AUDIT, AUDIT_HEAD, DECISION, EVIDENCE, REQUEST
from registry_gate.promotion import Actor, ModelVersionRef, Move, Target, TargetKind

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
FORM = "sha256:" + "f" * 64
LEASE = timedelta(seconds=60)
TARGET = Target(kind=TargetKind.ALIAS, model="chat", name="champion")
DENIAL = Decision(
    verdict=Verdict.INVALID,
    allowed=False,
    reasons=(Reason(code="evidence_missing", message="no evidence", verdict=Verdict.INVALID),),
    form_digest=FORM,
)
APPROVAL = Decision(verdict=Verdict.PASS, allowed=True, reasons=(), form_digest=FORM)


def stored(
    decision: Decision = APPROVAL, *, target: Target = TARGET, at: datetime = NOW, **changes: Any
) -> StoredDecision:
    version = ModelVersionRef(name="chat", version=1, created_ms=1, location="/a", source="models:/m-1")
    values: dict[str, Any] = {
        "id": str(uuid.uuid4()),
        "decided_at": at,
        "operation": "set_registered_model_alias",
        "move": Move(target=target, version=version),
        "actor": Actor(name="ana", kind="basic-auth"),
        "decision": decision,
        "policy_set_digest": "sha256:" + "p" * 64,
    }
    return StoredDecision(**{**values, **changes})


def record(ledger: Ledger, decision: StoredDecision) -> str:
    with ledger.transaction() as connection:
        return ledger.record_decision(connection, decision)


def ask(connection: Connection, ledger: Ledger, **changes: Any) -> AssessmentRequest:
    values: dict[str, Any] = {
        "workspace": "default",
        "form_digest": FORM,
        "battery": "general@1",
        "battery_digest": "sha256:b",
        "model": "chat",
        "version": 1,
    }
    return ledger.request_assessment(connection, **{**values, **changes})


def asked(ledger: Ledger, **changes: Any) -> AssessmentRequest:
    with ledger.transaction() as connection:
        return ask(connection, ledger, **changes)


def interrupted(ledger: Ledger, write: Callable[[Connection], object]) -> None:
    """A transaction that ends before its commit."""
    with ledger.transaction() as connection:
        write(connection)
        raise InterruptedError


# -- decisions --------------------------------------------------------------------------------------------------------


def test_decision_and_audit_entry_are_written_together(ledger: Ledger) -> None:
    decision = stored()
    assert record(ledger, decision) == decision.id
    (found,) = ledger.decisions()
    assert found == {"decided_at": "2026-11-23T12:00:00.000000Z", **decision.body()}
    assert ledger.verify_chain()[0] == 1


def test_decision_and_audit_entry_are_rolled_back_together(ledger: Ledger) -> None:
    with pytest.raises(InterruptedError):
        interrupted(ledger, lambda c: (ledger.record_decision(c, stored()), ask(c, ledger)))
    assert ledger.decisions() == []
    assert ledger.requests() == []
    assert ledger.verify_chain() == (0, audit_chain.GENESIS)


def test_a_request_alone_is_rolled_back_with_its_audit_entry(ledger: Ledger) -> None:
    """On SQLite a savepoint that comes first would have been committed on its own."""
    with pytest.raises(InterruptedError):
        interrupted(ledger, lambda connection: ask(connection, ledger))
    assert ledger.requests() == []
    assert ledger.verify_chain()[0] == 0


def test_a_repeated_denial_is_written_once(ledger: Ledger) -> None:
    first = record(ledger, stored(DENIAL))
    again = stored(DENIAL, at=NOW + timedelta(minutes=1), actor=Actor(name="bob", kind="anonymous"))
    assert record(ledger, again) == first
    assert len(ledger.decisions()) == ledger.verify_chain()[0] == 1


def test_a_denial_for_another_reason_target_or_operation_is_written_again(ledger: Ledger) -> None:
    other_reason = replace(DENIAL, reasons=(replace(DENIAL.reasons[0], message="another"),))
    decisions = [
        stored(DENIAL),
        stored(other_reason, at=NOW + timedelta(minutes=1)),
        stored(other_reason, at=NOW + timedelta(minutes=2), operation="rename_registered_model"),
        stored(DENIAL, target=replace(TARGET, name="Champion"), at=NOW + timedelta(minutes=3)),
        stored(DENIAL, target=replace(TARGET, workspace="other"), at=NOW + timedelta(minutes=4)),
    ]
    assert [record(ledger, decision) for decision in decisions] == [decision.id for decision in decisions]
    assert ledger.verify_chain()[0] == len(decisions)


def test_a_denial_after_an_approval_is_written_although_it_was_said_before(ledger: Ledger) -> None:
    record(ledger, stored(DENIAL))
    record(ledger, stored(at=NOW + timedelta(minutes=1)))
    last = stored(DENIAL, at=NOW + timedelta(minutes=2))
    assert record(ledger, last) == last.id


def test_every_allowed_decision_is_written(ledger: Ledger) -> None:
    ids = [record(ledger, stored(at=NOW + timedelta(seconds=n))) for n in range(3)]
    assert [one["id"] for one in ledger.decisions()] == ids[::-1]


def test_what_was_allowed_before_is_known_by_target_form_and_workspace(ledger: Ledger) -> None:
    record(ledger, stored(DENIAL))
    assert ledger.allowed_before(TARGET, FORM) is None
    record(ledger, stored(at=NOW + timedelta(seconds=1)))
    latest = record(ledger, stored(at=NOW + timedelta(seconds=2)))
    assert ledger.allowed_before(TARGET, FORM) == latest
    assert ledger.allowed_before(TARGET, "sha256:" + "0" * 64) is None
    for other in (
        replace(TARGET, name="Champion"),
        replace(TARGET, model="Chat"),
        replace(TARGET, workspace="other"),
        replace(TARGET, kind=TargetKind.STAGE),
    ):
        assert ledger.allowed_before(other, FORM) is None


def test_decisions_can_be_narrowed(ledger: Ledger) -> None:
    for n, model in enumerate(("chat", "legal", "chat")):
        record(ledger, stored(target=replace(TARGET, model=model), at=NOW + timedelta(seconds=n)))
    assert len(ledger.decisions(model="chat")) == 2
    assert len(ledger.decisions(limit=1)) == 1
    assert ledger.decisions(version=2) == []


# -- the audit chain --------------------------------------------------------------------------------------------------


@pytest.fixture
def chained(ledger: Ledger) -> Ledger:
    for n in range(5):
        with ledger.transaction() as connection:
            ledger.record_event(connection, "demotion", {"n": n})
    return ledger


def _insert_in_between(connection: Connection) -> None:
    for seq in (5, 4):
        connection.execute(update(AUDIT).where(AUDIT.c.seq == seq).values(seq=seq + 1))
    row = connection.execute(select(AUDIT).where(AUDIT.c.seq == 3)).one()._asdict()
    digest = audit_chain.entry_hash(4, row["at"], "forged", "{}", row["hash"])
    row |= {"seq": 4, "event": "forged", "body": "{}", "previous": row["hash"], "hash": digest}
    connection.execute(insert(AUDIT).values(**row))
    connection.execute(update(AUDIT_HEAD).values(seq=6))


def _append_without_head(connection: Connection) -> None:
    last = connection.execute(select(AUDIT).where(AUDIT.c.seq == 5)).one()
    digest = audit_chain.entry_hash(6, last.at, "forged", "{}", last.hash)
    connection.execute(
        insert(AUDIT).values(seq=6, at=last.at, event="forged", body="{}", previous=last.hash, hash=digest)
    )


def _reorder(connection: Connection) -> None:
    for old, new in ((2, 99), (3, 2), (99, 3)):
        connection.execute(update(AUDIT).where(AUDIT.c.seq == old).values(seq=new))


def _rehash(connection: Connection) -> None:
    row = connection.execute(select(AUDIT).where(AUDIT.c.seq == 3)).one()
    digest = audit_chain.entry_hash(3, row.at, row.event, '{"n":9}', row.previous)
    connection.execute(update(AUDIT).where(AUDIT.c.seq == 3).values(body='{"n":9}', hash=digest))


def _rehash_last(connection: Connection) -> None:
    row = connection.execute(select(AUDIT).where(AUDIT.c.seq == 5)).one()
    digest = audit_chain.entry_hash(5, row.at, row.event, "{}", row.previous)
    connection.execute(update(AUDIT).where(AUDIT.c.seq == 5).values(body="{}", hash=digest))


def _execute(statement: Any) -> Callable[[Connection], object]:
    return lambda connection: connection.execute(statement)


THIRD = AUDIT.c.seq == 3
TAMPERING: dict[str, tuple[Callable[[Connection], object], str]] = {
    "body changed": (_execute(update(AUDIT).where(THIRD).values(body="{}")), "entry 3 was changed after"),
    "time changed": (_execute(update(AUDIT).where(THIRD).values(at="2020")), "entry 3 was changed after"),
    "event changed": (_execute(update(AUDIT).where(THIRD).values(event="x")), "entry 3 was changed after"),
    "body and hash changed": (_rehash, "entry 4 does not continue entry 3"),
    "last body and hash changed": (_rehash_last, "the head was changed, or entries were added"),
    "deleted in between": (_execute(delete(AUDIT).where(THIRD)), "expected entry 3, got 4: entries are missing"),
    "deleted at the front": (_execute(delete(AUDIT).where(AUDIT.c.seq == 1)), "expected entry 1, got 2"),
    "cut off": (_execute(delete(AUDIT).where(AUDIT.c.seq > 3)), "entry 5, got 3: entries were cut off"),
    "emptied": (_execute(delete(AUDIT)), "entry 5, got 0: entries were cut off"),
    "inserted in between": (_insert_in_between, "entry 5 does not continue entry 4"),
    "appended from outside": (_append_without_head, "the head was changed, or entries were added"),
    "reordered": (_reorder, "entry 2 does not continue entry 1"),
    "head turned back": (_execute(update(AUDIT_HEAD).values(seq=4)), "the head was changed"),
    "head changed": (_execute(update(AUDIT_HEAD).values(hash="0" * 64)), "the head was changed"),
    "head removed": (_execute(delete(AUDIT_HEAD)), "expected its head row, got none"),
}


@pytest.mark.parametrize("what", TAMPERING)
def test_tampering_breaks_the_chain(what: str, chained: Ledger) -> None:
    tamper, sentence = TAMPERING[what]
    with chained.transaction() as connection:
        tamper(connection)
    with pytest.raises(IntegrityError) as caught:
        chained.verify_chain()
    assert str(caught.value).startswith("audit chain: ")
    assert sentence in str(caught.value)


def test_nothing_is_appended_without_a_head(chained: Ledger) -> None:
    with chained.transaction() as connection:
        connection.execute(delete(AUDIT_HEAD))
    with pytest.raises(IntegrityError, match="restore the ledger from a backup"):
        record(chained, stored())
    assert chained.decisions() == []


def test_many_writers_leave_one_chain_and_readers_see_no_false_alarm(connect: Callable[[], Ledger]) -> None:
    reader = connect()
    ledgers = [connect() for _ in range(8)]
    done = threading.Event()
    alarms: list[str] = []

    def watch() -> None:
        while not done.is_set():
            try:
                reader.verify_chain()
            except IntegrityError as err:
                alarms.append(str(err))

    def write(ledger: Ledger) -> None:
        for n in range(6):
            record(ledger, stored(at=NOW + timedelta(seconds=n)))

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(write, ledgers))
    finally:
        done.set()
        watching.join()
    assert alarms == []
    assert reader.verify_chain()[0] == 48
    assert len(reader.decisions(limit=100)) == 48


# -- evidence ---------------------------------------------------------------------------------------------------------


def file_evidence(ledger: Ledger, digest: str = "sha256:e", **changes: str) -> None:
    values = {"form_digest": FORM, "battery": "general@1", "workspace": "default", **changes}
    ledger.store_evidence(digest=digest, envelope='{"ä": 1}'.encode(), **values)


def test_evidence_is_kept_byte_for_byte_once(ledger: Ledger) -> None:
    file_evidence(ledger)
    file_evidence(ledger)
    (found,) = ledger.evidence_for(FORM, "default")
    assert found.envelope == '{"ä": 1}'.encode()
    assert ledger.evidence("sha256:e") == found
    assert ledger.evidence("sha256:other") is None
    assert ledger.verify_chain()[0] == 1


def test_evidence_of_another_workspace_or_form_is_not_found(ledger: Ledger) -> None:
    file_evidence(ledger, workspace="other")
    file_evidence(ledger, digest="sha256:e2", form_digest="sha256:other")
    assert ledger.evidence_for(FORM, "default") == []


def test_workers_that_file_the_same_evidence_at_once_both_succeed(connect: Callable[[], Ledger]) -> None:
    ledgers = [connect() for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(file_evidence, ledgers))
    assert len(ledgers[0].evidence_for(FORM, "default")) == ledgers[0].verify_chain()[0] == 1


# -- assessment requests ----------------------------------------------------------------------------------------------


def test_there_is_one_request_per_form_and_battery_however_many_ask(connect: Callable[[], Ledger]) -> None:
    ledgers = [connect() for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        ids = {request.id for request in pool.map(asked, ledgers)}
    (request,) = ledgers[0].requests()
    assert ids == {request.id}
    assert ledgers[0].verify_chain()[0] == 1


def test_other_forms_batteries_and_workspaces_have_requests_of_their_own(ledger: Ledger) -> None:
    asked(ledger)
    for changes in ({"form_digest": "sha256:2"}, {"battery_digest": "sha256:2"}, {"workspace": "other"}):
        assert asked(ledger, **changes).state is RequestState.QUEUED
    assert len(ledger.requests()) == 4
    assert len(ledger.requests(form_digest=FORM)) == 3


def test_a_request_is_claimed_by_one_of_many_workers(connect: Callable[[], Ledger]) -> None:
    ledgers = [connect() for _ in range(8)]
    request = asked(ledgers[0])
    barrier = threading.Barrier(8)

    def claim(numbered: tuple[int, Ledger]) -> AssessmentRequest | None:
        barrier.wait()
        return numbered[1].claim(f"worker-{numbered[0]}", LEASE)

    with ThreadPoolExecutor(8) as pool:
        claimed = [found for found in pool.map(claim, enumerate(ledgers)) if found is not None]
    assert [found.id for found in claimed] == [request.id]
    assert (claimed[0].state, claimed[0].attempt) == (RequestState.RUNNING, 1)


@pytest.fixture
def clock(ledger: Ledger) -> list[datetime]:
    """The ledger's clock: what it says is the one item."""
    moment = [NOW]
    ledger.clock = lambda: moment[0]
    return moment


def test_requests_are_taken_in_the_order_they_were_asked(ledger: Ledger, clock: list[datetime]) -> None:
    ids = []
    for n in range(3):
        clock[0] = NOW + timedelta(seconds=n)
        ids.append(asked(ledger, form_digest=f"sha256:{n}").id)
    claimed = [ledger.claim(f"w{n}", LEASE) for n in range(4)]
    assert [found.id for found in claimed if found] == ids
    assert claimed[3] is None


def test_a_request_is_taken_over_when_its_lease_ran_out_and_not_before(ledger: Ledger, clock: list[datetime]) -> None:
    request = asked(ledger)
    assert ledger.claim("first", LEASE) is not None
    clock[0] = NOW + LEASE - timedelta(seconds=1)
    assert ledger.claim("second", LEASE) is None
    assert ledger.report_progress(request.id, "first", LEASE, "answers: 3 of 120")
    clock[0] = NOW + LEASE + timedelta(seconds=1)
    assert ledger.claim("second", LEASE) is None  # the sign of life extended the lease
    clock[0] = NOW + 3 * LEASE
    taken = ledger.claim("second", LEASE)
    assert taken is not None
    assert (taken.id, taken.worker, taken.attempt) == (request.id, "second", 2)
    assert not ledger.report_progress(request.id, "first", LEASE, "late")
    found = ledger.request(request.id)
    assert found is not None
    assert found.progress == "answers: 3 of 120"


def test_a_worker_that_comes_back_resumes_its_own_request(ledger: Ledger, clock: list[datetime]) -> None:
    request = asked(ledger)
    ledger.claim("mine", LEASE)
    again = ledger.claim("mine", LEASE)
    assert again is not None
    assert (again.id, again.attempt) == (request.id, 2)
    assert ledger.claim("other", LEASE) is None


def test_a_request_that_ended_is_taken_again_only_when_somebody_says_so(ledger: Ledger, clock: list[datetime]) -> None:
    request = asked(ledger)
    ledger.claim("w", LEASE)
    ledger.fail(request.id, "w", "no_weights", "expected weights, got none")
    found = ledger.request(request.id)
    assert found is not None
    assert (found.state, found.failure_code, found.failure) == (
        RequestState.FAILED,
        "no_weights",
        "expected weights, got none",
    )
    assert asked(ledger).state is RequestState.FAILED
    assert ledger.claim("w", LEASE) is None
    again = asked(ledger, again=True, version=2)
    assert (again.id, again.state, again.round, again.version) == (request.id, RequestState.QUEUED, 1, 2)
    assert again.failure is None
    ledger.claim("w", LEASE)
    ledger.finish(request.id, "w", "sha256:e")
    done = ledger.request(request.id)
    assert done is not None
    assert (done.state, done.evidence_digest) == (RequestState.DONE, "sha256:e")
    assert ledger.verify_chain()[0] == 4  # asked, failed, asked again, done


def test_asking_again_for_what_is_under_way_changes_nothing(ledger: Ledger) -> None:
    asked(ledger)
    assert asked(ledger, again=True).round == 0
    ledger.claim("w", LEASE)
    assert asked(ledger, again=True).state is RequestState.RUNNING


def test_workers_are_listed_latest_first(ledger: Ledger, clock: list[datetime]) -> None:
    ledger.worker_seen("one", "idle")
    clock[0] = NOW + LEASE
    ledger.worker_seen("two", "busy")
    clock[0] = NOW + 2 * LEASE
    ledger.worker_seen("one", "busy")
    assert [(name, state) for name, _, state in ledger.workers()] == [("one", "busy"), ("two", "busy")]


# -- failures ---------------------------------------------------------------------------------------------------------


def test_a_locked_ledger_is_an_error_and_nothing_is_written(tmp_path: Path) -> None:
    file = tmp_path / "ledger.db"
    Ledger.connect(f"sqlite:///{file}").engine.dispose()
    engine = create_engine(f"sqlite:///{file}")
    event.listen(engine, "connect", lambda raw, _: raw.execute("PRAGMA busy_timeout = 50"))
    ledger = Ledger(engine)
    holder = sqlite3.connect(file, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    for attempt in (
        lambda: record(ledger, stored()),
        lambda: asked(ledger),
        lambda: file_evidence(ledger),
        lambda: ledger.claim("w", LEASE),
        lambda: ledger.allowed_before(TARGET, FORM),
        lambda: ledger.verify_chain(),
    ):
        with pytest.raises(LedgerError) as caught:
            attempt()
        assert str(caught.value) == (
            "expected the ledger's database to answer, got: database is locked. Nothing was written; ask again"
        )
    holder.execute("ROLLBACK")
    holder.close()
    with engine.connect() as connection:
        for table in (DECISION, REQUEST, EVIDENCE, AUDIT):
            assert connection.execute(select(table)).all() == []
    engine.dispose()


def test_a_ledger_whose_tables_are_gone_is_an_error(ledger: Ledger) -> None:
    with ledger.transaction() as connection:
        connection.execute(text("DROP TABLE registry_gate_decision"))
    with pytest.raises(LedgerError, match="registry_gate_decision"):
        ledger.allowed_before(TARGET, FORM)
    with pytest.raises(LedgerError, match="Nothing was written"):
        record(ledger, stored())
    assert ledger.verify_chain()[0] == 0


def test_a_worker_that_lost_its_request_ends_nothing(ledger: Ledger, clock: list[datetime]) -> None:
    request = asked(ledger)
    ledger.claim("slow", LEASE)
    clock[0] = NOW + LEASE + timedelta(seconds=1)
    ledger.claim("fast", LEASE)
    assert ledger.finish(request.id, "fast", "sha256:e")
    assert not ledger.fail(request.id, "slow", "engine_crashed", "expected answers, got none")
    found = ledger.request(request.id)
    assert found is not None
    assert (found.state, found.evidence_digest) == (RequestState.DONE, "sha256:e")
