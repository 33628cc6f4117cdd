"""Release 0.3: files beside the entries, such as the embeddings in which clients look ids up."""

import sqlalchemy as sa
from alembic import op

revision = "server_0004"
down_revision = "server_0003"


def upgrade() -> None:
    op.create_table(
        "attachments",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("digest", sa.Text, primary_key=True),
        sa.Column("content", sa.LargeBinary, nullable=False),
    )
