"""The seeds of an upload come from its owner, in one piece: nobody is dealt one of them any more."""

from alembic import op

revision = "provider_0002"
down_revision = "provider_0001"


def upgrade() -> None:
    with op.batch_alter_table("uploads") as uploads:
        uploads.drop_column("issued")
