"""The first schema: release 0.1.0 kept the same in files, which are read in when they are found."""

import sqlalchemy as sa
from alembic import op

revision = "server_0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "entries",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("signed", sa.Text, nullable=False),
    )
    op.create_table(
        "active",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("version", sa.Integer, nullable=False),
    )
    op.create_table(
        "grants",
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("granted", sa.Text, nullable=False),
    )
    op.create_table(
        "revoked",
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("token_id", sa.Text, nullable=False, unique=True),
    )
