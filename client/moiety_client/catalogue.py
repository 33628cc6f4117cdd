"""How both clients read a catalogue, written once as steps without I/O (see `steps.py`).

A client believes what the owner's key signed, and no entry that is older than one that it has seen.
"""

import hashlib
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from urllib.parse import quote, urlsplit

import httpx

from moiety_client.errors import (
    CatalogueError,
    CatalogueUnavailable,
    ExpiredEntry,
    InsecureAddress,
    MoietyError,
    UnknownModel,
    UntrustedEntry,
    from_problem,
)
from moiety_client.exchange import Sealer, TokenHolder
from moiety_client.state import StateFile
from moiety_client.steps import Fetch, Steps, Work
from moiety_client.tokens import Vocabulary
from moiety_service.http import clients
from moiety_service.settings import is_loopback
from moiety_shared.crypto.signing import BadSignature
from moiety_shared.messages.catalogue import Entry, SignedEntry
from moiety_shared.messages.tokens import Attachment
from moiety_shared.problems import Problem, ProblemType

_MOST = 1 << 26
"""The most bytes of an entry, or of the list of models. A plan of hundreds of layers takes some hundred thousand."""


class CatalogueReader:
    """Reads entries and the files beside them, and remembers both."""

    def __init__(
        self, catalogue_url: str, owner_key: str, holder: TokenHolder, state: StateFile, timeout: float
    ) -> None:
        self._catalogue = _encrypted(catalogue_url, "the catalogue")
        self._owner_key = owner_key
        self._holder = holder
        self._state = state
        self._timeout = timeout
        self._sealers: dict[str, Sealer] = {}
        self._vocabularies: dict[str, Vocabulary] = {}  # by model, as its entry named it last

    def sealer(self, entry: Entry) -> Sealer:
        """Return what makes requests to a model by hand. It signs them with the key that the token is bound to.

        `predict` and the other methods do this for you.
        """
        return Sealer(entry, self._holder)

    def _names(self) -> Steps[list[str]]:
        """Read the names of the published models. The list is not signed; each entry is."""
        with self._catalogue_errors():
            response = yield Fetch("GET", f"{self._catalogue}/v1/models", self._timeout, _MOST)
            return [str(one["name"]) for one in clients.check(response).json()]

    def _models(self) -> Steps[list[Entry]]:
        entries = []
        for name in (yield from self._names()):
            try:
                entries.append((yield from self._entry(name, refresh=True)))
            except UnknownModel:  # withdrawn since the list was read
                continue
        return entries

    def _entry(self, name: str, refresh: bool = False) -> Steps[Entry]:
        return (yield from self._sealer(name, refresh)).entry

    def _sealer(self, name: str, refresh: bool = False) -> Steps[Sealer]:
        if refresh or name not in self._sealers or self._sealers[name].entry.expires <= time.time():
            url = f"{self._catalogue}/v1/models/{quote(name, safe='')}"
            with self._catalogue_errors():
                response = yield Fetch("GET", url, self._timeout, _MOST)
                self._sealers[name] = yield Work(partial(self._trust, name, response))
        return self._sealers[name]

    def _trust(self, name: str, response: httpx.Response) -> Sealer:
        """Check a catalogue entry and remember it. The client remembers nothing of an entry that it refuses.

        Raises UntrustedEntry or its subclass, or StateFileError.
        """
        signed = SignedEntry.model_validate_json(clients.check(response).content)
        with self._state.changing() as seen:
            pinned = self._owner_key or seen.owners.get(self._catalogue, "")
            if not pinned:
                warnings.warn(
                    "no owner_key is pinned, so the client trusts the key that the catalogue names: pass owner_key",
                    stacklevel=2,
                )
            owner_key = pinned or signed.owner_key
            entry = _verified(signed, owner_key)
            revisions = seen.revisions.setdefault(owner_key, {})
            _check_current(entry, name, revisions.get(name, 0))
            _encrypted(entry.parties[0].url, "alice")
            revisions[name] = entry.revision
            if not self._owner_key:
                seen.owners[self._catalogue] = owner_key
        self._owner_key = owner_key
        return self.sealer(entry)

    @contextmanager
    def _catalogue_errors(self) -> Iterator[None]:
        try:
            yield
        except Problem as problem:
            if problem.kind is ProblemType.UNSUPPORTED_VERSION:
                raise CatalogueError(f"{problem}. {problem.kind.hint}") from problem
            raise from_problem(problem) from problem
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise CatalogueUnavailable(
                f"the catalogue at {self._catalogue} does not answer ({type(error).__name__}): check that the model "
                "owner's server runs, and that the access file has its address"
            ) from error
        except MoietyError:
            raise
        except (ValueError, TypeError, KeyError) as error:
            raise CatalogueError(
                f"what answers at {self._catalogue} is not a catalogue that this client can read: check that it is the "
                "model owner's server, and that it runs this version of moiety"
            ) from error

    def _looking_up(self, name: str) -> Steps[tuple[Entry, Vocabulary | None]]:
        """Read a model's entry, and the files beside it if it takes ids."""
        entry = yield from self._entry(name)
        return entry, (yield from self._vocabulary(entry))

    def _vocabulary(self, entry: Entry) -> Steps[Vocabulary | None]:
        """Read the files beside the entry of a model that takes ids, once. A later entry's take their place."""
        how = entry.tokens
        if how is None:
            return None
        kept = self._vocabularies.get(entry.name)
        if kept is None or kept.how != how:
            contents = []
            for attachment in entry.attachments:
                contents.append((yield from self._attached(entry, attachment)))
            kept = self._vocabularies[entry.name] = Vocabulary.of(how, contents)
        return kept

    def _attached(self, entry: Entry, attachment: Attachment) -> Steps[bytes]:
        """Read a file beside an entry. Raises UntrustedEntry if it is not the one that the entry names."""
        place = f"{quote(entry.name, safe='')}/versions/{entry.version}/files/{attachment.digest}"
        with self._catalogue_errors():
            response = yield Fetch("GET", f"{self._catalogue}/v1/models/{place}", self._timeout, attachment.size)
            content = clients.check(response).content
        if len(content) != attachment.size or hashlib.sha256(content).hexdigest() != attachment.digest:
            raise UntrustedEntry(
                f"the catalogue gave another file of {entry.name!r} than its owner signed: ask the owner who changed it"
            )
        return content


def _verified(signed: SignedEntry, owner_key: str) -> Entry:
    """Return the entry if the owner's key signed it. Raises UntrustedEntry otherwise."""
    try:
        return signed.verify(owner_key)
    except BadSignature as error:
        raise UntrustedEntry(
            f"{error}: compare your key with the owner's; if they are equal, somebody changed the catalogue"
        ) from error


def _check_current(entry: Entry, name: str, seen: int) -> None:
    """Raise UntrustedEntry unless this is the model's active entry, and no older than the revision `seen`.

    Raises ExpiredEntry if its time is over.
    """
    if entry.name != name:
        raise UntrustedEntry(f"the catalogue gave model {entry.name!r} for {name!r}: ask the owner who changed it")
    if not entry.active:
        raise UntrustedEntry(
            f"the catalogue gave version {entry.version} of {name!r}, which is not the active one: ask the owner who "
            "changed it"
        )
    if entry.revision < seen:
        raise UntrustedEntry(
            f"the catalogue gave an older entry of {name!r} than before (revision {entry.revision}, not {seen}): ask "
            "the owner who changed it"
        )
    if entry.expires <= time.time():
        over = datetime.fromtimestamp(entry.expires, UTC)
        raise ExpiredEntry(
            f"the entry of {name!r} expired at {over:%Y-%m-%d %H:%M} UTC: the owner renews it with `moiety refresh`; "
            "if they did, check this machine's clock, or ask them who shows you an old entry"
        )


def _encrypted(url: str, what: str) -> str:
    """Return the URL without a slash at its end. Raises InsecureAddress for plain HTTP to another machine."""
    parts = urlsplit(url)
    if parts.scheme != "https" and not (parts.scheme == "http" and is_loopback(parts.hostname or "")):
        raise InsecureAddress(f"the address of {what} must begin with https://: a token must not travel unencrypted")
    return url.rstrip("/")
