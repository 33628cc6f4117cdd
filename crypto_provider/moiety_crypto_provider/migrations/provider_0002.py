"""The seeds of an upload come from its owner, in one piece: nobody is dealt one of them any more. Each lease has a key
of its own, which is wiped at its end; those of release 0.1.0 have none, and so are over."""

import sqlalchemy as sa
from alembic import op

revision = "provider_0002"
down_revision = "provider_0001"


def upgrade() -> None:
    with op.batch_alter_table("uploads") as uploads:
        uploads.drop_column("issued")
    with op.batch_alter_table("leases") as leases:
        leases.add_column(sa.Column("key", sa.LargeBinary, nullable=True))
        leases.add_column(sa.Column("opened", sa.BigInteger, nullable=True))
