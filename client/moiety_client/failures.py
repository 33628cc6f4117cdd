"""Addresses that are refused, and what becomes of connections that fail."""

from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import httpx

from moiety_client.errors import CatalogueError, InsecureAddress, from_problem
from moiety_shared.problems import Problem, ProblemType
from moiety_shared.service.settings import is_loopback


@contextmanager
def no_answer() -> Iterator[None]:
    """A connection that fails is a problem like any other."""
    try:
        yield
    except httpx.HTTPError as error:
        raise Problem(
            ProblemType.PARTY_UNAVAILABLE, f"{error.request.url.host} gave no answer ({type(error).__name__})"
        ) from error


@contextmanager
def catalogue_errors(url: str) -> Iterator[None]:
    """Everything that goes wrong there is a CatalogueError, or what a problem document says."""
    try:
        yield
    except Problem as problem:
        raise from_problem(problem) from problem
    except (httpx.HTTPError, ValueError) as error:
        raise CatalogueError(f"no usable catalogue at {url}: is the model owner's server running?") from error


def encrypted(url: str, what: str) -> str:
    """The URL without a slash at its end. Raises InsecureAddress for plain HTTP to another machine."""
    parts = urlsplit(url)
    if parts.scheme != "https" and not (parts.scheme == "http" and is_loopback(parts.hostname or "")):
        raise InsecureAddress(f"the address of {what} must begin with https://: a token must not travel in the clear")
    return url.rstrip("/")
