"""Frozen artifact trees, uploads under way, signed decisions, and indexes that end in the time."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.mysql import MEDIUMTEXT

from registry_gate.ledger.tables import TEXT_BY_LETTER

revision = "0002"
down_revision = "0001"

LONG_TEXT = sa.Text().with_variant(MEDIUMTEXT(), "mysql", "mariadb")


def upgrade() -> None:
    op.add_column("registry_gate_decision", sa.Column("envelope", LONG_TEXT))
    op.drop_index("registry_gate_decision_target", "registry_gate_decision")
    op.drop_index("registry_gate_decision_version", "registry_gate_decision")
    op.create_index("registry_gate_decision_target", "registry_gate_decision", ["target_key", "decided_at"])
    op.create_index(
        "registry_gate_decision_form", "registry_gate_decision", ["target_key", "form_digest", "allowed", "decided_at"]
    )
    op.create_index("registry_gate_decision_version", "registry_gate_decision", ["model_key", "version", "decided_at"])
    op.create_table(
        "registry_gate_frozen",
        sa.Column("key", sa.String(71), primary_key=True),
        sa.Column("location", sa.Text, nullable=False),
        sa.Column("folded", sa.Text, nullable=False),
        sa.Column("decision_id", sa.String(36), nullable=False),
        sa.Column("frozen_at", sa.String(32), nullable=False),
        **TEXT_BY_LETTER,
    )
    op.create_table(
        "registry_gate_upload",
        sa.Column("id", sa.String(36), primary_key=True),
        sa.Column("folded", sa.Text, nullable=False),
        sa.Column("until", sa.String(32), nullable=False),
        **TEXT_BY_LETTER,
    )
