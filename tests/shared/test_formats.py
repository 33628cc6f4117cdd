"""What is of another version of its format is refused as such, by its number, before anything of it is believed."""

import json
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from moiety_client.client import Client
from moiety_client.core import read_access
from moiety_client.errors import AccessFileError, CatalogueError
from moiety_shared.crypto.handshake import Handshake
from moiety_shared.messages import wire
from moiety_shared.messages.access import AccessFile
from moiety_shared.messages.catalogue import SignedEntry
from moiety_shared.messages.upload import Head
from moiety_shared.plan.plan import Plan
from moiety_shared.problems import Problem, ProblemType
from tests.fuzz import targets
from tests.fuzz.targets import BINDING, ID, PLAN, ROWS, TARGETS

MESSAGES: dict[str, Callable[[bytes], object]] = {
    "request": wire.Request.unpack,
    "secret": lambda raw: wire.Secret.unpack(raw, BINDING, ROWS, 32),
    "handshake": Handshake.unpack,
    "result": lambda raw: wire.unpack_result(raw, ID, PLAN, ROWS),
    "owner_count": wire.OwnerCount.unpack,
    "upload": Head.unpack,
}


def refused(read: Callable[[bytes], object], raw: bytes) -> Problem:
    with pytest.raises(Problem) as caught:
        read(raw)
    return caught.value


@pytest.mark.parametrize("name", MESSAGES)
def test_a_message_of_another_version_is_refused_by_its_number(name: str) -> None:
    raw, read = next(TARGETS[name].seeds()), MESSAGES[name]
    read(raw)
    version = int(raw[3:4])
    newer = raw[:3] + str(version + 1).encode() + raw[4:] + b"and what else a later version may bring"
    problem = refused(read, newer)
    assert problem.kind is ProblemType.UNSUPPORTED_VERSION
    assert f"version {version + 1}" in problem.detail and f"version {version}" in problem.detail
    for foreign in (b"PK\3\4", b"MXX1", b"MRQx"):
        assert refused(read, foreign + raw[4:]).kind is ProblemType.MALFORMED


@pytest.mark.parametrize(
    ("document", "read"),
    [
        (PLAN.model_dump(mode="json"), Plan.model_validate_json),
        (json.loads(targets._entry().model_dump_json()), SignedEntry.model_validate_json),
        (AccessFile(catalogue_url="https://a", owner_key="k").model_dump(), AccessFile.model_validate_json),
    ],
)
def test_a_document_of_another_format_is_refused_by_its_number(
    document: dict[str, object], read: Callable[[bytes], object]
) -> None:
    read(json.dumps(document).encode())
    inner = document.get("entry", document)
    assert isinstance(inner, dict)
    inner |= {"format": inner["format"] + 1, "what a later version may bring": 1}
    problem = refused(read, json.dumps(document).encode())
    assert problem.kind is ProblemType.UNSUPPORTED_VERSION and f"version {inner['format']}" in problem.detail


def test_a_client_says_which_of_both_to_upgrade(tmp_path: Path) -> None:
    file = tmp_path / "access.json"
    file.write_text('{"format": 7}')
    with pytest.raises(AccessFileError, match=r"access file of version 7.*upgrade it"):
        read_access(file)
    answer = httpx.Response(200, text='{"entry": {"format": 7}}', request=httpx.Request("GET", "https://a"))
    client = Client("https://a", owner_key="k")
    client._http = httpx.Client(transport=httpx.MockTransport(lambda _: answer))
    with pytest.raises(CatalogueError, match=r"catalogue entry of version 7.*upgrade it"):
        client.model("mnist")
