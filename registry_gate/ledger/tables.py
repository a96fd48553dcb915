"""The ledger's tables. A change here needs a migration; `tests/unit/registry_gate/ledger` compares the two."""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)
from sqlalchemy.dialects.mysql import MEDIUMTEXT

METADATA = MetaData()

# Times are text in UTC (`2026-11-23T12:00:00.000000Z`): they sort, and read back the same from every database.
_TIME = String(32)
_DIGEST = String(71)
# 191 characters of utf8mb4 are the longest that MySQL indexes everywhere.
_KEY = String(191)
# MySQL's TEXT ends at 64 KiB, which a decision with a long file list can pass.
_LONG_TEXT = Text().with_variant(MEDIUMTEXT(), "mysql", "mariadb")

TEXT_BY_LETTER: dict[str, Any] = {
    f"{dialect}_{option}": value
    for dialect in ("mysql", "mariadb")
    for option, value in (("charset", "utf8mb4"), ("collate", "utf8mb4_bin"))
}
"""Options of every table: without them MySQL keeps the database's own character set, which may not hold every letter,
and takes `Team-A` and `team-a` for one workspace."""

EVIDENCE = Table(
    "registry_gate_evidence",
    METADATA,
    Column("digest", _DIGEST, primary_key=True),
    Column("form_digest", _DIGEST, nullable=False),
    Column("battery", _KEY, nullable=False),
    Column("workspace", _KEY, nullable=False),
    Column("envelope", _LONG_TEXT, nullable=False),
    Column("stored_at", _TIME, nullable=False),
    Index("registry_gate_evidence_form", "form_digest", "battery"),
    **TEXT_BY_LETTER,
)

DECISION = Table(
    "registry_gate_decision",
    METADATA,
    Column("id", String(36), primary_key=True),
    Column("decided_at", _TIME, nullable=False),
    Column("operation", String(64), nullable=False),
    Column("workspace", _KEY, nullable=False),
    Column("model_key", _DIGEST, nullable=False),
    Column("model", Text, nullable=False),
    Column("version", Integer, nullable=False),
    Column("version_created_ms", BigInteger, nullable=False),
    Column("target_kind", String(16), nullable=False),
    Column("target_key", _DIGEST, nullable=False),
    Column("target_name", Text, nullable=False),
    Column("form_digest", _DIGEST),
    Column("verdict", String(32), nullable=False),
    Column("allowed", Boolean, nullable=False),
    Column("policy_set_digest", _DIGEST),
    Column("fingerprint", _DIGEST, nullable=False),
    Column("body", _LONG_TEXT, nullable=False),
    # What the gate signed (DSSE), so that a decision can be checked where no ledger is; denials are not signed.
    Column("envelope", _LONG_TEXT),
    # Each ends in the time, so that the latest of many decisions is found without sorting them.
    Index("registry_gate_decision_target", "target_key", "decided_at"),
    Index("registry_gate_decision_form", "target_key", "form_digest", "allowed", "decided_at"),
    Index("registry_gate_decision_version", "model_key", "version", "decided_at"),
    Index("registry_gate_decision_time", "decided_at"),
    **TEXT_BY_LETTER,
)

REQUEST = Table(
    "registry_gate_request",
    METADATA,
    Column("id", String(36), primary_key=True),
    Column("workspace", _KEY, nullable=False),
    Column("form_digest", _DIGEST, nullable=False),
    Column("battery", _KEY, nullable=False),
    Column("battery_digest", _DIGEST, nullable=False),
    Column("model", Text, nullable=False),
    Column("version", Integer, nullable=False),
    Column("state", String(16), nullable=False),
    Column("requested_at", _TIME, nullable=False),
    Column("updated_at", _TIME, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("round", Integer, nullable=False),
    Column("worker", String(128)),
    Column("lease_until", _TIME),
    Column("progress", Text),
    Column("failure_code", String(64)),
    Column("failure", Text),
    Column("evidence_digest", _DIGEST),
    UniqueConstraint("workspace", "form_digest", "battery_digest", name="registry_gate_request_once"),
    Index("registry_gate_request_state", "state", "requested_at"),
    **TEXT_BY_LETTER,
)

WORKER = Table(
    "registry_gate_worker",
    METADATA,
    Column("id", String(128), primary_key=True),
    Column("seen_at", _TIME, nullable=False),
    Column("state", String(16), nullable=False),
    **TEXT_BY_LETTER,
)

FROZEN = Table(
    "registry_gate_frozen",
    METADATA,
    # Digest of `folded`: paths can be longer than an index allows.
    Column("key", _DIGEST, primary_key=True),
    Column("location", Text, nullable=False),
    Column("folded", Text, nullable=False),
    Column("decision_id", String(36), nullable=False),
    Column("frozen_at", _TIME, nullable=False),
    **TEXT_BY_LETTER,
)
"""Artifact trees of approved versions, relative to the artifact root; `folded` ignores letter case."""

UPLOAD = Table(
    "registry_gate_upload",
    METADATA,
    Column("id", String(36), primary_key=True),
    Column("folded", Text, nullable=False),
    Column("until", _TIME, nullable=False),
    **TEXT_BY_LETTER,
)
"""Writes under way in artifact stores that cannot publish a file in one step. Nothing below is promoted meanwhile."""

GRANT = Table(
    "registry_gate_grant",
    METADATA,
    Column("id", String(36), primary_key=True),
    Column("kind", String(16), nullable=False),
    Column("workspace", _KEY, nullable=False),
    Column("form_digest", _DIGEST, nullable=False),
    Column("policy", _KEY, nullable=False),
    Column("revokes", String(36)),
    Column("envelope", _LONG_TEXT, nullable=False),
    Column("stored_at", _TIME, nullable=False),
    Index("registry_gate_grant_policy", "workspace", "policy"),
    **TEXT_BY_LETTER,
)
"""What people signed, by `kind`: `waiver`, `approval`, what takes them back (`revocation`), `opening` of break-glass,
its `closing`, and its `end` by time, which nobody signs. Break-glass is of form and policy `*`. Never changed, never
removed."""

AUDIT = Table(
    "registry_gate_audit",
    METADATA,
    Column("seq", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=False),
    Column("at", _TIME, nullable=False),
    Column("event", String(64), nullable=False),
    Column("body", _LONG_TEXT, nullable=False),
    Column("previous", String(64), nullable=False),
    Column("hash", String(64), nullable=False),
    **TEXT_BY_LETTER,
)

AUDIT_HEAD = Table(
    "registry_gate_audit_head",
    METADATA,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("seq", BigInteger, nullable=False),
    Column("hash", String(64), nullable=False),
    **TEXT_BY_LETTER,
)
"""One row. Updating it first serialises writers on every database, so that the chain never forks."""
