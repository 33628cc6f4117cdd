"""Private predictions from a model that you cannot see, on data that nobody else sees.

    from moiety import Client

    with Client.from_access("access.json") as client:  # the file that the model's owner gave you
        answer = client.predict("mnist", images)       # NumPy arrays, pictures, files, or a stack of them
        print(answer.labels)

`Client` blocks and `AsyncClient` awaits; both have the same methods. `predict` and `stream` return `Prediction`,
`evaluate` returns `Evaluation`. `Telemetry` sends spans and timings where you want them. Every error is a
`MoietyError`, and its text says what to do next.
"""

from importlib.metadata import version

from moiety_client.answers import Evaluation, Prediction
from moiety_client.client import AsyncClient, Client
from moiety_client.errors import (
    AccessFileError,
    CanaryFailed,
    CatalogueError,
    CatalogueUnavailable,
    ExpiredEntry,
    InsecureAddress,
    InvalidInput,
    LabelsOnly,
    MoietyError,
    NotAllowed,
    QuotaExceeded,
    RequestRefused,
    ResultRejected,
    ResumeRefused,
    ServiceUnavailable,
    StateFileError,
    UnknownModel,
    UntrustedEntry,
    WrongClock,
)
from moiety_client.telemetry import Telemetry

__version__ = version("moiety")

__all__ = [
    "AccessFileError",
    "AsyncClient",
    "CanaryFailed",
    "CatalogueError",
    "CatalogueUnavailable",
    "Client",
    "Evaluation",
    "ExpiredEntry",
    "InsecureAddress",
    "InvalidInput",
    "LabelsOnly",
    "MoietyError",
    "NotAllowed",
    "Prediction",
    "QuotaExceeded",
    "RequestRefused",
    "ResultRejected",
    "ResumeRefused",
    "ServiceUnavailable",
    "StateFileError",
    "Telemetry",
    "UnknownModel",
    "UntrustedEntry",
    "WrongClock",
    "__version__",
]
