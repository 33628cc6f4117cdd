"""The client: splits and seals inputs, opens and joins predictions. Needs no torch."""

from moiety_client.answers import Evaluation, Prediction
from moiety_client.client import AsyncClient, Client
from moiety_client.errors import MoietyError

__all__ = ["AsyncClient", "Client", "Evaluation", "MoietyError", "Prediction"]
