"""Private predictions from a model that you cannot see, on data that nobody else sees.

    from moiety import Client

    with Client.from_access("access.json") as client:  # the file that the model's owner gave you
        answer = client.predict("mnist", images)       # NumPy arrays, pictures, files, or a stack of them
        print(answer.labels)

The client splits each input into two shares and sends one share to each of two servers. A share looks random: neither
server can read your input or your answer, as long as the organisations that run the service do not work together. Each
server sends back a share of the answer, and the client joins the two.

`Client` blocks and `AsyncClient` awaits. Both have the same methods:

    predict     returns a `Prediction` for one input or a stack of them
    stream      yields a `Prediction` for each batch of many inputs, and can go on after an interruption
    evaluate    returns an `Evaluation`: how many inputs the model labels right
    models      returns a description of each model that the owner has published

`Telemetry` says where spans and timings go. Every error is a `MoietyError`, and its text says what to do next.
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
    NoLabels,
    NoProbabilities,
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
    "NoLabels",
    "NoProbabilities",
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
