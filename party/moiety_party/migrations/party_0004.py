"""Whether the checks of verified runs passed, by upload, and whose turn it is to run one."""

import sqlalchemy as sa
from alembic import op

revision = "party_0004"
down_revision = "party_0003"


def upgrade() -> None:
    op.create_table(
        "standings",
        sa.Column("upload_id", sa.Text, primary_key=True),
        sa.Column("key_id", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("holder", sa.Text, nullable=False),
        sa.Column("until", sa.Float, nullable=False),
        sa.Column("wanted", sa.Float, nullable=False),
    )
