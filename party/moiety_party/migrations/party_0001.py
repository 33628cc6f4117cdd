"""The schema of release 0.1.0."""

import sqlalchemy as sa
from alembic import op

revision = "party_0001"
down_revision = None


def upgrade() -> None:
    op.create_table("revoked_tokens", sa.Column("token_id", sa.Text, primary_key=True))
    op.create_table(
        "usage",
        sa.Column("owner_key", sa.Text, primary_key=True),
        sa.Column("subject", sa.Text, primary_key=True),
        sa.Column("window_end", sa.BigInteger, primary_key=True),
        sa.Column("rows", sa.BigInteger, nullable=False),
    )
