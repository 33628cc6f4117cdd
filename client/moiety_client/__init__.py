"""The client: splits and seals inputs, opens and joins predictions. Needs no torch."""

from moiety_client.client import AsyncClient, Client, Evaluation, Prediction

__all__ = ["AsyncClient", "Client", "Evaluation", "Prediction"]
