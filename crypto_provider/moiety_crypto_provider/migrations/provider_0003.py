"""The keys of uploads whose runs are verified."""

import sqlalchemy as sa
from alembic import op

revision = "provider_0003"
down_revision = "provider_0002"


def upgrade() -> None:
    op.create_table(
        "upload_keys",
        sa.Column("upload_id", sa.Text, primary_key=True),
        sa.Column("key_id", sa.Text, nullable=False),
        sa.Column("seed_0", sa.LargeBinary, nullable=False),
        sa.Column("seed_1", sa.LargeBinary, nullable=False),
    )
