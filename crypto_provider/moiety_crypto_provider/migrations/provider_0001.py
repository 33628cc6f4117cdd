"""The schema of release 0.1.0."""

import sqlalchemy as sa
from alembic import op

revision = "provider_0001"
down_revision = None

_COUNTER = sa.Integer().with_variant(sa.BigInteger(), "postgresql")


def upgrade() -> None:
    op.create_table(
        "uploads",
        sa.Column("upload_id", sa.Text, primary_key=True),
        sa.Column("plan", sa.LargeBinary, nullable=False),
        sa.Column("seed_0", sa.LargeBinary, nullable=False),
        sa.Column("seed_1", sa.LargeBinary, nullable=False),
        sa.Column("issued", sa.Integer, nullable=False),
    )
    op.create_table(
        "leases",
        sa.Column("lease_id", sa.Text, primary_key=True),
        sa.Column("upload_id", sa.Text, nullable=False),
        sa.Column("joined", sa.Integer, nullable=False),
        sa.Column("next_bundle", _COUNTER, nullable=False),
    )
