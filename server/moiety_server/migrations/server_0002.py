"""Uploads are on record from before their first byte. Those that the catalogue names are taken over."""

import json

import sqlalchemy as sa
from alembic import op

revision = "server_0002"
down_revision = "server_0001"


def upgrade() -> None:
    uploads = op.create_table(
        "uploads",
        sa.Column("upload_id", sa.Text, primary_key=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("started", sa.BigInteger, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.UniqueConstraint("name", "version"),
    )
    for name, version, signed in op.get_bind().execute(sa.text("SELECT name, version, signed FROM entries")).all():
        upload_id = json.loads(signed)["entry"]["upload_id"]
        row = {"upload_id": upload_id, "name": name, "version": version, "started": 0, "state": "published"}
        op.bulk_insert(uploads, [row])
