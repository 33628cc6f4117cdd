"""The tables of a party's database."""

from pathlib import Path

from sqlalchemy import BigInteger, Boolean, Column, Float, LargeBinary, MetaData, Table, Text

from moiety_service.database import Schema

METADATA = MetaData()
PARTY = Table("party", METADATA, Column("role", Text, primary_key=True))
REVOKED = Table("revoked_tokens", METADATA, Column("token_id", Text, primary_key=True))
USAGE = Table(
    "usage",
    METADATA,
    Column("owner_key", Text, primary_key=True),
    Column("subject", Text, primary_key=True),
    Column("window_end", BigInteger, primary_key=True),  # seconds since 1970
    Column("rows", BigInteger, nullable=False),
)
MODELS = Table(
    "models",
    METADATA,
    Column("upload_id", Text, primary_key=True),
    Column("deleted", Boolean, nullable=False),
)
REQUESTS = Table(
    "requests",
    METADATA,
    Column("request_id", LargeBinary, primary_key=True),
    Column("subject", Text, nullable=False),
    Column("digest", LargeBinary, nullable=False),
    Column("replica", Text, nullable=False),
    Column("until", Float, nullable=False, index=True),  # seconds since 1970: the end of the result, or of the claim
    Column("result", LargeBinary, nullable=True),  # sealed to the client
)
ANSWERED = Table(
    "answered",
    METADATA,
    Column("request_id", LargeBinary, primary_key=True),
    Column("until", Float, nullable=False, index=True),  # seconds since 1970
)
STANDINGS = Table(  # of uploads whose runs are verified; without a row one is good, and its key has its own id
    "standings",
    METADATA,
    Column("upload_id", Text, primary_key=True),
    Column("key_id", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("holder", Text, nullable=False),  # the replica whose turn it is, or was last
    Column("until", Float, nullable=False),  # seconds since 1970: the end of its turn, or of its check
    Column("wanted", Float, nullable=False),  # seconds since 1970: so long another replica waits for a turn
)
SCHEMA = Schema(METADATA, Path(__file__).parent / "migrations", "party_0001")
