"""Freeze the artifact trees of approved versions: which paths may no longer be written, and writes under way.

A tree is named by its place: its path below the artifact root, folded so that two spellings that any store, proxy or
file system could take for the same file are the same place. What folds too much refuses a neighbour with an odd name;
what folds too little would let somebody write into an approved model, so in doubt it folds.

Promotions and writes take the same lock (`chain.lock`), so one of them always sees the other.
"""

from __future__ import annotations

import hashlib
import time
import unicodedata
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from urllib.parse import unquote

from sqlalchemy import ColumnElement, Connection, and_, column, delete, exists, insert, not_, or_, select, table, update
from sqlalchemy.exc import SQLAlchemyError

from registry_gate.errors import FormError, LedgerError
from registry_gate.ledger import chain
from registry_gate.ledger.store import Ledger, as_text
from registry_gate.ledger.tables import DECISION, FROZEN, UPLOAD

WRITE_LEASE = timedelta(minutes=10)
"""How long a write that nobody ends keeps promotions out; a write that lives on extends it long before."""

WRITES_KEPT = timedelta(hours=6)
"""How long an ended write is remembered. A form that took longer to read is not promoted from that reading."""

_ENDED = "0"
# Before the time at which a write ended: it sorts before all times, so that it is never taken for one under way.

# MLflow's own table, of which three columns are read here. Deleted versions stay in it under a stage of their own.
_VERSIONS = table("model_versions", column("storage_location"), column("source"), column("current_stage"))
_DELETED = "Deleted_Internal"

# Characters without a glyph that some file systems (HFS+, ext4 with casefold) leave out when they compare names, and
# that are not of the category Cf.
_IGNORED = frozenset(
    "\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180e\u180f\u3164\uffa0"
    + "".join(map(chr, range(0xFE00, 0xFE10)))
    + "".join(map(chr, range(0xE0100, 0xE01F0)))
)
_FOLD_ROUNDS = 8
_DECODE_ROUNDS = 10


class OutsideRootError(ValueError):
    """A path that climbs out of the root, or that no store could hold."""


class FrozenError(FormError):
    """A write was refused because of an approved version's files.

    Args:
        message: What is frozen, by which decision, and what to do.
        decision: Id of that decision.
        location: Location whose files are frozen.
    """

    def __init__(self, message: str, *, decision: str, location: str) -> None:
        super().__init__(message, code="frozen")
        self.decision = decision
        self.location = location


def fold(path: str) -> str:
    """The place that a path means below the artifact root; empty for the root itself.

    Ignores letter case, Unicode forms, invisible characters, `.` and empty segments, the direction of slashes, and
    dots and blanks at the end of a name (Windows and SMB drop them). Percent signs stay: see `spellings`.

    Raises:
        OutsideRootError: A segment is `..`, or the path has no UTF-8 bytes or a NUL.
    """
    text = unicodedata.normalize("NFD", path)
    for _ in range(_FOLD_ROUNDS):
        kept = "".join(c for c in text if c not in _IGNORED and unicodedata.category(c) != "Cf")
        folded = unicodedata.normalize("NFKC", kept).casefold()
        if folded == text:
            break
        text = folded
    if "\0" in text or any(0xD800 <= ord(c) <= 0xDFFF for c in text):
        raise OutsideRootError("expected a path in UTF-8 without NUL")
    segments = []
    for segment in text.replace("\\", "/").split("/"):
        if segment.strip() == "..":
            raise OutsideRootError("expected a path inside the artifact root, got one with '..'")
        if name := segment.rstrip(". "):
            segments.append(name)
    return "/".join(segments)


def spellings(path: str) -> tuple[str, ...]:
    """The places that a path may mean, the first as it stands and the others percent-decoded, each once.

    Servers, proxies and stores decode none, one or several times.

    Raises:
        OutsideRootError: As `fold`, for any of them; or the path is encoded more often than anybody decodes.
    """
    found = []
    for _ in range(_DECODE_ROUNDS):
        found.append(fold(path))
        decoded = unquote(path)
        if decoded == path:
            return tuple(dict.fromkeys(found))
        path = decoded
    raise OutsideRootError(f"expected a path that is percent-encoded at most {_DECODE_ROUNDS - 1} times")


def _key(place: str) -> str:
    return "sha256:" + hashlib.sha256(place.encode()).hexdigest()


def _at_or_above(place: str) -> list[str]:
    """A place and everything that it lies in, without the root: the root itself is never frozen."""
    segments = place.split("/") if place else []
    return ["/".join(segments[:n]) for n in range(1, len(segments) + 1)]


def touches(one: str, other: str) -> bool:
    """Whether one place is, holds or lies in the other."""
    return one == other or not one or not other or one.startswith(other + "/") or other.startswith(one + "/")


@dataclass(frozen=True, kw_only=True)
class Write:
    """A write under way, in a store that cannot publish a file in one step."""

    id: str
    places: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Held:
    """What a form that is promoted was read from.

    Args:
        places: Places below the artifact root that it is loaded from; those outside the root are not here.
        known: Writes to them that were known when reading began, see `FrozenTrees.writes_at`.
        began_s: When reading began, by the monotonic clock of this process, seconds.
    """

    places: tuple[str, ...]
    known: frozenset[tuple[str, str]]
    began_s: float


class FrozenTrees:
    """The frozen trees and the writes under way of one ledger.

    Args:
        ledger: Where they are recorded.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    # -- promotions ---------------------------------------------------------------------------------------------------

    def writes_at(self, places: Sequence[str]) -> frozenset[tuple[str, str]]:
        """Writes at, below or above some places, under way or ended; to be compared with those of a later moment.

        Raises:
            LedgerError: The ledger does not answer.
        """
        with _reading(), self._ledger.engine.connect() as connection:
            return _writes(connection, places)

    def require_no_writes(self, connection: Connection, held: Held) -> None:
        """Refuse a promotion of files that are being written, or were while or after they were read.

        Args:
            connection: The promotion's transaction; from here on no write begins until it ends.
            held: The files.

        Raises:
            FormError: Something is being written; says until when it counts (`artifact_being_written`). Or something
                was written since the files were read (`form_changed`), or nobody can tell any more.
        """
        chain.lock(connection)
        now = as_text(self._ledger.clock())
        found = _writes(connection, held.places)
        under_way = max((until for _, until in found if until >= now), default=None)
        if under_way is not None:
            raise FormError(
                f"expected files that nobody writes to, got a write under way at {' or '.join(held.places)}: ask again "
                f"when it has ended; one that broke off counts until {under_way}",
                code="artifact_being_written",
            )
        known = {name for name, until in held.known if until.startswith(_ENDED)}
        if {name for name, until in found if until.startswith(_ENDED)} - known:
            raise FormError(
                f"expected the files at {' or '.join(held.places)} as they were read, got a write in the meantime: "
                "ask again",
                code="form_changed",
            )
        if time.monotonic() - held.began_s > (WRITES_KEPT - WRITE_LEASE).total_seconds():
            raise FormError(
                f"expected files that are read within {WRITES_KEPT}, got a reading that took longer: ask again",
                code="form_changed",
            )

    def freeze(self, connection: Connection, places: Iterable[str], *, location: str, decision: str) -> None:
        """Freeze trees for as long as a registered version has this location. Repeated calls change nothing.

        Args:
            connection: The promotion's transaction.
            places: The trees.
            location: Storage location of the version that was allowed.
            decision: Id of the decision that allowed it.
        """
        chain.lock(connection)
        for place in dict.fromkeys(places):
            if not place:
                # A version whose files are the whole root: freezing it would end all logging of everybody.
                continue
            row = {"location": location, "folded": place, "decision_id": decision}
            row["frozen_at"] = as_text(self._ledger.clock())
            query = select(FROZEN.c.location).where(FROZEN.c.key == _key(place)).with_for_update(read=True)
            first = connection.execute(query).scalar()
            if first is None:
                connection.execute(insert(FROZEN).values(key=_key(place), **row))
            elif first != location:
                # Another version needs the same files, e.g. as its base: frozen until both are gone.
                key = _key(f"{place}\n{location}")
                if connection.execute(select(FROZEN.c.key).where(FROZEN.c.key == key)).scalar() is None:
                    connection.execute(insert(FROZEN).values(key=key, **row))

    # -- writes -------------------------------------------------------------------------------------------------------

    def check(self, places: Iterable[str], *, also_below: bool = False) -> None:
        """Refuse a write that is refused already; holds no lock, so that asking costs nobody anything.

        Args:
            places: What would be written.
            also_below: True for a deletion, which changes everything below.

        Raises:
            FrozenError: It lies in, or holds, a frozen tree.
            LedgerError: The ledger does not answer.
        """
        with _reading(), self._ledger.engine.connect() as connection:
            self._require_free(connection, places, also_below)

    @contextmanager
    def exclusive(self, places: Iterable[str], *, also_below: bool = False) -> Iterator[None]:
        """Check, and let no promotion in until the block ends: for stores that write or delete in one short step.

        Raises:
            FrozenError: It lies in, or holds, a frozen tree.
            LedgerError: The ledger does not answer; the block did not run.
        """
        with _reading():
            connection = self._ledger.engine.connect()
        try:
            with _reading():
                chain.lock(connection)
                self._require_free(connection, places, also_below)
            yield
        finally:
            # Nothing was written: the transaction was there for its lock alone.
            connection.close()

    def begin_write(self, places: Iterable[str], *, checked: Iterable[str] = (), also_below: bool = False) -> Write:
        """Check, and keep promotions of these places out until `end_write`, or until nobody extends the write.

        Args:
            places: What is written, or a directory below which it is.
            checked: Every file below that directory.
            also_below: True for a deletion.

        Raises:
            FrozenError: It lies in, or holds, a frozen tree.
            LedgerError: The ledger does not answer.
        """
        now = self._ledger.clock()
        wanted = tuple(dict.fromkeys(places))
        begun = Write(id=str(uuid.uuid4()), places=wanted)
        with self._ledger.transaction() as connection:
            chain.lock(connection)
            self._require_free(connection, [*wanted, *checked], also_below)
            old = as_text(now - WRITES_KEPT)
            ended = UPLOAD.c.until.startswith(_ENDED)
            forgotten = or_(and_(ended, UPLOAD.c.until < _ENDED + old), and_(not_(ended), UPLOAD.c.until < old))
            connection.execute(delete(UPLOAD).where(forgotten))
            for number, place in enumerate(wanted):
                values = {"id": _row(begun, number), "folded": place, "until": as_text(now + WRITE_LEASE)}
                connection.execute(insert(UPLOAD).values(**values))
        return begun

    def extend_write(self, begun: Write) -> None:
        """Say that a write goes on.

        Raises:
            LedgerError: The ledger does not answer.
        """
        until = as_text(self._ledger.clock() + WRITE_LEASE)
        with self._ledger.transaction() as connection:
            connection.execute(update(UPLOAD).where(UPLOAD.c.id.in_(_rows(begun))).values(until=until))

    def end_write(self, begun: Write) -> None:
        """The write has ended, well or not.

        Raises:
            FrozenError: It took longer than its lease and a promotion came between: bytes of an approved version may
                have changed. Recorded in the audit chain.
            LedgerError: The ledger does not answer; the write counts until its lease ends.
        """
        now = as_text(self._ledger.clock())
        late: FrozenError | None = None
        with self._ledger.transaction() as connection:
            chain.lock(connection)
            mine = UPLOAD.c.id.in_(_rows(begun))
            in_time = connection.execute(select(UPLOAD.c.id).where(mine, UPLOAD.c.until >= now)).all()
            connection.execute(update(UPLOAD).where(mine).values(until=_ENDED + now))
            if len(in_time) == len(begun.places):
                return
            try:
                self._require_free(connection, begun.places, also_below=True)
            except FrozenError as err:
                late = err
                body = {"places": list(begun.places), "location": err.location, "decision": err.decision}
                self._ledger.record_event(connection, "frozen_files_written", body)
        if late is not None:
            raise late

    # -- how ----------------------------------------------------------------------------------------------------------

    def _require_free(self, connection: Connection, places: Iterable[str], also_below: bool) -> None:
        for place in places:
            above = _at_or_above(place)
            keys = [_key(one) for one in above]
            frozen = list(connection.execute(select(FROZEN.c.folded).where(FROZEN.c.key.in_(keys))).scalars())
            which: ColumnElement[bool] = FROZEN.c.folded.in_(frozen)
            if also_below:
                below = FROZEN.c.folded.startswith(place + "/", autoescape=True) if place else FROZEN.c.key.is_not(None)
                which = or_(which, below)
            elif not frozen:
                continue
            held = connection.execute(select(FROZEN).where(which, _is_registered()).limit(1)).one_or_none()
            if held is not None:
                raise self._refusal(connection, place, held.folded, held.location, held.decision_id)

    def _refusal(self, connection: Connection, place: str, tree: str, location: str, decision: str) -> FrozenError:
        row = connection.execute(
            select(DECISION.c.model, DECISION.c.version, DECISION.c.target_kind, DECISION.c.target_name).where(
                DECISION.c.id == decision
            )
        ).one_or_none()
        what = f"decision {decision}"
        if row is not None:
            sign = "@" if row.target_kind == "alias" else "/"
            what += f" (models:/{row.model}/{row.version} for {row.model}{sign}{row.target_name})"
        where = "lies in" if place == tree or place.startswith(tree + "/") else "holds"
        return FrozenError(
            f"expected a path outside the files of approved versions, got {place or 'the artifact root'!r}, which "
            f"{where} {tree!r}, frozen by {what}: log other files as a new version. The files can be changed or "
            f"deleted once no registered model version has the location {location} any more",
            decision=decision,
            location=location,
        )


def _writes(connection: Connection, places: Sequence[str]) -> frozenset[tuple[str, str]]:
    """(id, until) of every write that touches one of these places."""
    if not places:
        return frozenset()
    touching: list[ColumnElement[bool]] = [UPLOAD.c.folded.in_([place, "", *_at_or_above(place)]) for place in places]
    touching += [UPLOAD.c.folded.startswith(place + "/", autoescape=True) for place in places if place]
    # Reading for update sees what others committed meanwhile, also where this transaction began before (MySQL).
    rows = connection.execute(select(UPLOAD.c.id, UPLOAD.c.until).where(or_(*touching)).with_for_update(read=True))
    return frozenset((row.id, row.until) for row in rows)


def _is_registered() -> ColumnElement[bool]:
    """Whether any version, in whatever workspace, still has the location of a row of FROZEN."""
    found = or_(_VERSIONS.c.storage_location == FROZEN.c.location, _VERSIONS.c.source == FROZEN.c.location)
    return exists(select(1).select_from(_VERSIONS).where(and_(found, _VERSIONS.c.current_stage != _DELETED)))


def _row(begun: Write, number: int) -> str:
    return begun.id if number == 0 else str(uuid.uuid5(uuid.UUID(begun.id), str(number)))


def _rows(begun: Write) -> list[str]:
    return [_row(begun, number) for number in range(len(begun.places))]


@contextmanager
def _reading() -> Iterator[None]:
    try:
        yield
    except SQLAlchemyError as err:
        cause = str(getattr(err, "orig", None) or type(err).__name__).splitlines()[0]
        raise LedgerError(
            f"expected the ledger's database to answer, got: {cause}. Nothing was written; ask again", code="ledger"
        ) from err
