"""The audit chain: every entry's hash covers the one before it, so that nothing can be changed or removed unseen.

Whoever can write the database can still rewrite the whole chain; keep the latest hash elsewhere (`audit verify` prints
it) to notice that too.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, bindparam, insert, select, update

from registry_gate.errors import IntegrityError
from registry_gate.form import canonical_json
from registry_gate.ledger.tables import AUDIT, AUDIT_HEAD

GENESIS = "0" * 64
"""`previous` of the first entry."""

# Built once: a promotion runs each of them.
_TAKE_HEAD = update(AUDIT_HEAD).where(AUDIT_HEAD.c.id == 1).values(seq=AUDIT_HEAD.c.seq)
# FOR UPDATE although it is locked already: any other read of MySQL may answer from before the lock was taken.
_READ_HEAD = select(AUDIT_HEAD.c.seq, AUDIT_HEAD.c.hash).where(AUDIT_HEAD.c.id == 1).with_for_update()
_MOVE_HEAD = (
    update(AUDIT_HEAD).where(AUDIT_HEAD.c.id == 1).values(seq=bindparam("next_seq"), hash=bindparam("next_hash"))
)
_ADD = insert(AUDIT)


def entry_hash(seq: int, at: str, event: str, body: str, previous: str) -> str:
    """sha256 over everything that the entry says and the hash of the entry before it."""
    return hashlib.sha256(canonical_json([seq, at, event, body, previous])).hexdigest()


def lock(connection: Connection) -> None:
    """Let no other writer of the ledger in until the caller's transaction ends.

    Also makes sure that a transaction is open at all: Python's SQLite driver opens one at the first write only, and
    would commit a savepoint that came before it.
    """
    taken = connection.execute(_TAKE_HEAD)
    if taken.rowcount != 1:
        raise IntegrityError("audit chain: expected its head row, got none: restore the ledger from a backup")


def append(connection: Connection, *, at: str, event: str, body: Mapping[str, Any]) -> int:
    """Add an entry in the caller's transaction. Returns its number.

    The head row is locked before it is read, so two writers can never continue the same entry.
    """
    lock(connection)
    last, previous = connection.execute(_READ_HEAD).one()
    seq, text = int(last) + 1, canonical_json(body).decode()
    digest = entry_hash(seq, at, event, text, previous)
    connection.execute(_ADD, {"seq": seq, "at": at, "event": event, "body": text, "previous": previous, "hash": digest})
    connection.execute(_MOVE_HEAD, {"next_seq": seq, "next_hash": digest})
    return seq


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One audit entry.

    Args:
        seq: Its number, from 1.
        at: When it was written.
        event: What happened, e.g. `decision` or `demotion`.
        body: What is said about it, JSON.
        hash: Its hash, which covers the entry before it.
    """

    seq: int
    at: str
    event: str
    body: str
    hash: str


def entries(connection: Connection, after: int = 0) -> Iterator[Entry]:
    """Entries behind entry number `after`, oldest first, as they lie there: nothing is verified."""
    query = select(AUDIT).where(AUDIT.c.seq > after).order_by(AUDIT.c.seq)
    with connection.execution_options(yield_per=1000).execute(query) as rows:
        for row in rows:
            yield Entry(seq=int(row.seq), at=row.at, event=row.event, body=row.body, hash=row.hash)


def verify(connection: Connection, visit: Callable[[Entry], object] | None = None) -> tuple[int, str]:
    """Walk the whole chain. Returns the number of entries and the latest hash.

    Args:
        connection: To the ledger.
        visit: Called with each entry that was verified, so that a reader need not walk twice.

    Raises:
        IntegrityError: An entry was changed, removed, inserted or reordered, or the head does not fit.
    """
    # Others may append while this walks: the head as it was before must lie on the way, and the way must not lead
    # beyond the head as it is after.
    before = _head(connection)
    expected_seq, previous = 0, GENESIS
    at_before = GENESIS
    walk = connection.execution_options(yield_per=1000).execute(select(AUDIT).order_by(AUDIT.c.seq))
    with walk as rows:
        for row in rows:
            expected_seq += 1
            if row.seq != expected_seq:
                raise IntegrityError(f"audit chain: expected entry {expected_seq}, got {row.seq}: entries are missing")
            if row.previous != previous:
                raise IntegrityError(f"audit chain: entry {row.seq} does not continue entry {row.seq - 1}")
            if entry_hash(row.seq, row.at, row.event, row.body, row.previous) != row.hash:
                raise IntegrityError(f"audit chain: entry {row.seq} was changed after it was written")
            json.loads(row.body)
            previous = row.hash
            if row.seq == before[0]:
                at_before = row.hash
            if visit is not None:
                visit(Entry(seq=int(row.seq), at=row.at, event=row.event, body=row.body, hash=row.hash))
    after = _head(connection)
    if before[0] > expected_seq:
        raise IntegrityError(
            f"audit chain: expected entries up to its head, entry {before[0]}, got {expected_seq}: entries were cut off"
        )
    if before[1] != at_before or after[0] < expected_seq or (after[0] == expected_seq and after[1] != previous):
        raise IntegrityError(
            f"audit chain: expected its head at entry {expected_seq} with the hash of that entry, got entry "
            f"{after[0]} with hash {after[1][:16]}: the head was changed, or entries were added from outside"
        )
    return expected_seq, previous


def _head(connection: Connection) -> tuple[int, str]:
    head = connection.execute(select(AUDIT_HEAD.c.seq, AUDIT_HEAD.c.hash).where(AUDIT_HEAD.c.id == 1)).one_or_none()
    if head is None:
        raise IntegrityError("audit chain: expected its head row, got none: restore the ledger from a backup")
    return int(head.seq), str(head.hash)
