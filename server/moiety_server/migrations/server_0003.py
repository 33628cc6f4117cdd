"""Release 0.2: the highest revision that was signed for each name."""

import sqlalchemy as sa
from alembic import op

revision = "server_0003"
down_revision = "server_0002"


def upgrade() -> None:
    op.create_table(
        "revisions",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("revision", sa.BigInteger, nullable=False),
    )
