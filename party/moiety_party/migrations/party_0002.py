"""Replicas: whose database it is, which models there are, which requests are running or done."""

import sqlalchemy as sa
from alembic import op

revision = "party_0002"
down_revision = "party_0001"


def upgrade() -> None:
    op.create_table("party", sa.Column("role", sa.Text, primary_key=True))
    op.create_table(
        "models",
        sa.Column("upload_id", sa.Text, primary_key=True),
        sa.Column("deleted", sa.Boolean, nullable=False),
    )
    op.create_table(
        "requests",
        sa.Column("request_id", sa.LargeBinary, primary_key=True),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("digest", sa.LargeBinary, nullable=False),
        sa.Column("replica", sa.Text, nullable=False),
        sa.Column("until", sa.Float, nullable=False, index=True),
        sa.Column("result", sa.LargeBinary, nullable=True),
    )
