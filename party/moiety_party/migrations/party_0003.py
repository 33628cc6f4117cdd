"""What bob gave his share of a result for."""

import sqlalchemy as sa
from alembic import op

revision = "party_0003"
down_revision = "party_0002"


def upgrade() -> None:
    op.create_table(
        "answered",
        sa.Column("request_id", sa.LargeBinary, primary_key=True),
        sa.Column("until", sa.Float, nullable=False, index=True),
    )
