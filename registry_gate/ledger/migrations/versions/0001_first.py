"""Evidence, decisions, requests, workers and the audit chain."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.mysql import MEDIUMTEXT

from registry_gate.ledger.tables import TEXT_BY_LETTER

revision = "0001"
down_revision = None

LONG_TEXT = sa.Text().with_variant(MEDIUMTEXT(), "mysql", "mariadb")


def upgrade() -> None:
    op.create_table(
        "registry_gate_evidence",
        sa.Column("digest", sa.String(71), primary_key=True),
        sa.Column("form_digest", sa.String(71), nullable=False),
        sa.Column("battery", sa.String(191), nullable=False),
        sa.Column("workspace", sa.String(191), nullable=False),
        sa.Column("envelope", LONG_TEXT, nullable=False),
        sa.Column("stored_at", sa.String(32), nullable=False),
        **TEXT_BY_LETTER,
    )
    op.create_index("registry_gate_evidence_form", "registry_gate_evidence", ["form_digest", "battery"])
    op.create_table(
        "registry_gate_decision",
        sa.Column("id", sa.String(36), primary_key=True),
        sa.Column("decided_at", sa.String(32), nullable=False),
        sa.Column("operation", sa.String(64), nullable=False),
        sa.Column("workspace", sa.String(191), nullable=False),
        sa.Column("model_key", sa.String(71), nullable=False),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("version_created_ms", sa.BigInteger, nullable=False),
        sa.Column("target_kind", sa.String(16), nullable=False),
        sa.Column("target_key", sa.String(71), nullable=False),
        sa.Column("target_name", sa.Text, nullable=False),
        sa.Column("form_digest", sa.String(71)),
        sa.Column("verdict", sa.String(32), nullable=False),
        sa.Column("allowed", sa.Boolean, nullable=False),
        sa.Column("policy_set_digest", sa.String(71)),
        sa.Column("fingerprint", sa.String(71), nullable=False),
        sa.Column("body", LONG_TEXT, nullable=False),
        **TEXT_BY_LETTER,
    )
    op.create_index("registry_gate_decision_target", "registry_gate_decision", ["target_key", "form_digest", "allowed"])
    op.create_index("registry_gate_decision_version", "registry_gate_decision", ["model_key", "version"])
    op.create_index("registry_gate_decision_time", "registry_gate_decision", ["decided_at"])
    op.create_table(
        "registry_gate_request",
        sa.Column("id", sa.String(36), primary_key=True),
        sa.Column("workspace", sa.String(191), nullable=False),
        sa.Column("form_digest", sa.String(71), nullable=False),
        sa.Column("battery", sa.String(191), nullable=False),
        sa.Column("battery_digest", sa.String(71), nullable=False),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("requested_at", sa.String(32), nullable=False),
        sa.Column("updated_at", sa.String(32), nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("round", sa.Integer, nullable=False),
        sa.Column("worker", sa.String(128)),
        sa.Column("lease_until", sa.String(32)),
        sa.Column("progress", sa.Text),
        sa.Column("failure_code", sa.String(64)),
        sa.Column("failure", sa.Text),
        sa.Column("evidence_digest", sa.String(71)),
        sa.UniqueConstraint("workspace", "form_digest", "battery_digest", name="registry_gate_request_once"),
        **TEXT_BY_LETTER,
    )
    op.create_index("registry_gate_request_state", "registry_gate_request", ["state", "requested_at"])
    op.create_table(
        "registry_gate_worker",
        sa.Column("id", sa.String(128), primary_key=True),
        sa.Column("seen_at", sa.String(32), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        **TEXT_BY_LETTER,
    )
    op.create_table(
        "registry_gate_audit",
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=False),
        sa.Column("at", sa.String(32), nullable=False),
        sa.Column("event", sa.String(64), nullable=False),
        sa.Column("body", LONG_TEXT, nullable=False),
        sa.Column("previous", sa.String(64), nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
        **TEXT_BY_LETTER,
    )
    head = op.create_table(
        "registry_gate_audit_head",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("seq", sa.BigInteger, nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
        **TEXT_BY_LETTER,
    )
    op.bulk_insert(head, [{"id": 1, "seq": 0, "hash": "0" * 64}])
