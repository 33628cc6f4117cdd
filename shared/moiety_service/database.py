"""The one place that opens databases: a SQLite file by default, PostgreSQL by a URL. What is committed is on the disk.

Opening a database first migrates it to the newest schema. Alembic runs the migrations, which come with the packages.
"""

import errno
import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import (
    URL,
    Connection,
    Engine,
    MetaData,
    Table,
    create_engine,
    event,
    func,
    inspect,
    make_url,
    select,
    text,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import ArgumentError, DBAPIError, InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.pool import ConnectionPoolEntry

from moiety_service import disk
from moiety_service.settings import RoleSettings
from moiety_service.startup import StartRefused
from moiety_shared.problems import Problem, ProblemType

_VERSION_TABLE = "alembic_version"
_LOCK = 0x6D6F69657479  # "moiety" in ASCII: the process that migrates holds this advisory lock of PostgreSQL
_CONNECT_SECONDS = 5
_DISK_FULL = "53100"  # PostgreSQL's SQLSTATE
_SCHEMES = {"sqlite": "sqlite", "postgresql": "postgresql+psycopg", "postgres": "postgresql+psycopg"}
PASSWORD_FILE = "database.password"  # noqa: S105  a file's name
"""The file in a role's secrets folder with the password of its database, for a URL without one."""


@dataclass(frozen=True)
class Schema:
    """A role's tables, and the folder of migrations that lead to them.

    `first` is the migration that makes the schema of release 0.1.0. That release's files do not record a version.
    """

    metadata: MetaData
    migrations: Path
    first: str


def location(settings: RoleSettings, role: str, file: str) -> URL:
    """The URL in the setting `database_url`, or of `file` in the data folder. Raises StartRefused for a bad URL."""
    if settings.database_url is None:
        return URL.create("sqlite", database=str(settings.private_dir() / file))
    try:
        url = make_url(settings.database_url.get_secret_value())
        url = url.set(drivername=_SCHEMES[url.drivername.partition("+")[0]])
    except (ArgumentError, KeyError, ValueError):
        raise StartRefused("the database's URL must begin with postgresql:// or sqlite:///") from None
    password = settings.keys_dir / role / PASSWORD_FILE
    if url.get_backend_name() == "postgresql" and url.password is None and password.exists():
        url = url.set(password=password.read_text().strip())
    return url


class Database:
    """A role's database. In SQLite one transaction writes at a time; in PostgreSQL writers lock rows."""

    def __init__(self, url: URL, schema: Schema) -> None:
        """Connect and migrate. Raises StartRefused, which names the database without its password."""
        self._name = url.render_as_string(hide_password=True)
        self._closed = False
        try:
            self._engine = _sqlite(url) if url.get_backend_name() == "sqlite" else _postgresql(url)
        except ModuleNotFoundError:
            raise StartRefused("PostgreSQL needs its driver: pip install 'moiety[postgres]'") from None
        except OSError as error:
            if disk.is_full(error):
                raise
            raise StartRefused(f"{self._name} cannot be opened: {error.strerror}") from None
        try:
            self._migrate(schema)
        except CommandError:
            raise StartRefused(
                f"{self._name} was written by a newer release of moiety, or by another role: start that release, or "
                "restore a backup from before it"
            ) from None
        except SQLAlchemyError as error:
            if isinstance(error, DBAPIError) and _is_full(error):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), url.database) from None
            raise StartRefused(f"{self._name} cannot be opened: {_reason(error, url.password)}") from None
        finally:
            self._engine.dispose()  # a constructor that fails leaves nobody to close it

    @property
    def shared(self) -> bool:
        """Whether replicas on several machines may use it at the same time."""
        return self._engine.dialect.name == "postgresql"

    def close(self) -> None:
        """Close the database. Transactions under way in other threads still finish, and none begins any more.

        Otherwise a thread that is late would make an empty file where a backup is being restored.
        """
        self._closed = True
        self._engine.dispose()

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A connection for reading. Raises Problem STATE_UNAVAILABLE when the database does not answer."""
        with _answering(), self._connected() as connection:
            yield connection

    @contextmanager
    def write(self, *, durable: bool = True) -> Iterator[Connection]:
        """One transaction, which is on the disk when the block ends.

        Unless it is `durable`, the database may write it to the disk later. Then a crash may lose it: of PostgreSQL, or
        of the machine with SQLite's file. Raises Problem STATE_UNAVAILABLE.
        """
        with _answering(), self._writing(durable=durable) as connection:
            if self.shared and not durable:
                connection.execute(text("SET LOCAL synchronous_commit = off"))
            yield connection

    @contextmanager
    def wipe(self) -> Iterator[Connection]:
        """One transaction that removes the values which it overwrites or deletes from all of SQLite's files.

        While another connection reads, SQLite keeps the old values until the end of the next such transaction.
        PostgreSQL keeps old rows for a while, see docs/operations.md. Raises Problem STATE_UNAVAILABLE.
        """
        with self.write() as connection:
            yield connection
        if not self.shared:
            with _answering(), self._connected() as connection:
                connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")

    @contextmanager
    def _connected(self, synchronous: str = "") -> Iterator[Connection]:
        """A connection. SQLite's writes if there is a level of `synchronous`, which says when they are on the disk."""
        if self._closed:
            raise Problem(ProblemType.STATE_UNAVAILABLE)
        with self._engine.connect().execution_options(moiety_synchronous=synchronous) as connection:
            try:
                yield connection
            finally:
                if self._closed and not connection.invalidated:
                    connection.detach()  # the pool is gone, so nothing else would close it

    @contextmanager
    def _writing(self, *, durable: bool = True) -> Iterator[Connection]:
        with self._connected("FULL" if durable else "NORMAL") as connection, connection.begin():
            yield connection

    def _migrate(self, schema: Schema) -> None:
        """Migrate to the newest schema, in one transaction; one process at a time does so."""
        with self._writing() as connection:
            if self.shared:
                connection.execute(select(func.pg_advisory_xact_lock(_LOCK)))
            config = configuration(schema, connection)
            tables = set(inspect(connection).get_table_names())
            if _VERSION_TABLE not in tables and tables & set(schema.metadata.tables):
                command.stamp(config, schema.first)
            command.upgrade(config, "head")


def configuration(schema: Schema, connection: Connection) -> Config:
    """The configuration that Alembic's commands need for a role's database."""
    config = Config()
    config.set_main_option("path_separator", "newline")
    for name, path in (
        ("script_location", Path(__file__).parent / "migrations"),
        ("version_locations", schema.migrations),
    ):
        config.set_main_option(name, str(path).replace("%", "%%"))
    config.attributes.update(connection=connection, metadata=schema.metadata)
    return config


def insert_new(connection: Connection, table: Table, values: Mapping[str, Any]) -> bool:
    """Add the row unless its key is taken. Returns whether it was added."""
    insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    added = insert(table).values(**values).on_conflict_do_nothing().returning(*table.primary_key.columns)
    return connection.execute(added).first() is not None


def _sqlite(url: URL) -> Engine:
    """An engine for a SQLite file, which is made with mode 0600."""
    if not url.database:
        raise StartRefused("SQLite needs a file: sqlite:////data/state.sqlite")
    Path(url.database).touch(mode=0o600)
    engine = create_engine(url)

    @event.listens_for(engine, "connect")
    def _durable(connection: DBAPIConnection, _record: ConnectionPoolEntry) -> None:
        connection.isolation_level = None  # the driver begins no transaction by itself
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA secure_delete=ON")  # SQLite overwrites what it deletes, see `wipe`
        cursor.close()

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        if synchronous := connection.get_execution_options().get("moiety_synchronous"):
            connection.exec_driver_sql(f"PRAGMA synchronous={synchronous}")
            # Locks at once: what the transaction reads decides what it writes.
            connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def _postgresql(url: URL) -> Engine:
    """An engine whose commits are on the disk, whatever the server's defaults. It replaces broken connections."""
    options = url.query.get("options", "")
    asked = options if isinstance(options, str) else " ".join(options)
    arguments: dict[str, Any] = {
        "options": f"{asked} -c synchronous_commit=on".strip(),
        "client_encoding": "utf8",  # without it, a database in SQL_ASCII returns bytes for text
    }
    if "connect_timeout" not in url.query:
        arguments["connect_timeout"] = _CONNECT_SECONDS
    return create_engine(url, isolation_level="READ COMMITTED", pool_pre_ping=True, connect_args=arguments)


@contextmanager
def _answering() -> Iterator[None]:
    try:
        yield
    except (OperationalError, InterfaceError) as error:
        raise Problem(ProblemType.DISK_FULL if _is_full(error) else ProblemType.STATE_UNAVAILABLE) from error


def _is_full(error: DBAPIError) -> bool:
    """Whether the error says that the disk under the database is full.

    SQLite reports SQLITE_FULL, or that it cannot enlarge the index of its log, which it needs to open a file.
    PostgreSQL reports `disk_full`.
    """
    code = getattr(error.orig, "sqlite_errorcode", None)
    return (
        code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE)
        or getattr(error.orig, "sqlstate", None) == _DISK_FULL
    )


def _reason(error: SQLAlchemyError, password: object) -> str:
    """The driver's message in one line, without the password."""
    said = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    line = " ".join(str(said).split())
    return line.replace(str(password), "***") if password else line
