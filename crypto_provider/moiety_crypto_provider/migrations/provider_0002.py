"""An upload's owner now sends both its seeds together; the provider no longer deals one of them to anybody.

Each lease now has a key of its own, which is wiped when the lease ends. Leases of release 0.1.0 have no key, and so
they are over.
"""

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
