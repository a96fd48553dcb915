"""The audit chain: every entry's hash covers the one before it, so that nothing can be changed or removed unseen.

Whoever can write the database can still rewrite the whole chain; keep the latest hash elsewhere (`audit verify` prints
it) to notice that too.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, insert, select, update

from registry_gate.errors import IntegrityError
from registry_gate.form import canonical_json
from registry_gate.ledger.tables import AUDIT, AUDIT_HEAD

GENESIS = "0" * 64
"""`previous` of the first entry."""


def entry_hash(seq: int, at: str, event: str, body: str, previous: str) -> str:
    """sha256 over everything that the entry says and the hash of the entry before it."""
    return hashlib.sha256(canonical_json([seq, at, event, body, previous])).hexdigest()


def lock(connection: Connection) -> None:
    """Let no other writer of the ledger in until the caller's transaction ends.

    Also makes sure that a transaction is open at all: Python's SQLite driver opens one at the first write only, and
    would commit a savepoint that came before it.
    """
    taken = connection.execute(update(AUDIT_HEAD).where(AUDIT_HEAD.c.id == 1).values(seq=AUDIT_HEAD.c.seq))
    if taken.rowcount != 1:
        raise IntegrityError("audit chain: expected its head row, got none: restore the ledger from a backup")


def append(connection: Connection, *, at: str, event: str, body: Mapping[str, Any]) -> int:
    """Add an entry in the caller's transaction. Returns its number.

    The head row is updated before it is read: that takes the row lock (or SQLite's write lock), so two writers can
    never continue the same entry.
    """
    taken = connection.execute(update(AUDIT_HEAD).where(AUDIT_HEAD.c.id == 1).values(seq=AUDIT_HEAD.c.seq + 1))
    if taken.rowcount != 1:
        raise IntegrityError("audit chain: expected its head row, got none: restore the ledger from a backup")
    seq, previous = connection.execute(select(AUDIT_HEAD.c.seq, AUDIT_HEAD.c.hash)).one()
    text = canonical_json(body).decode()
    digest = entry_hash(seq, at, event, text, previous)
    connection.execute(insert(AUDIT).values(seq=seq, at=at, event=event, body=text, previous=previous, hash=digest))
    connection.execute(update(AUDIT_HEAD).where(AUDIT_HEAD.c.id == 1).values(hash=digest))
    return int(seq)


def verify(connection: Connection) -> tuple[int, str]:
    """Walk the whole chain. Returns the number of entries and the latest hash.

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
