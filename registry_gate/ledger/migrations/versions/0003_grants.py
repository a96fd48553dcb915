"""What people granted: waivers and their revocations."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.mysql import MEDIUMTEXT

from registry_gate.ledger.tables import TEXT_BY_LETTER

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.create_table(
        "registry_gate_grant",
        sa.Column("id", sa.String(36), primary_key=True),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("workspace", sa.String(191), nullable=False),
        sa.Column("form_digest", sa.String(71), nullable=False),
        sa.Column("policy", sa.String(191), nullable=False),
        sa.Column("revokes", sa.String(36)),
        sa.Column("envelope", sa.Text().with_variant(MEDIUMTEXT(), "mysql", "mariadb"), nullable=False),
        sa.Column("stored_at", sa.String(32), nullable=False),
        **TEXT_BY_LETTER,
    )
    op.create_index("registry_gate_grant_policy", "registry_gate_grant", ["workspace", "policy"])
