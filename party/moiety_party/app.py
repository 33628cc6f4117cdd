"""A party's app: alice's or bob's, as the settings say."""

from fastapi import FastAPI
from opentelemetry.trace import Tracer

from moiety_party.helper import app as helper
from moiety_party.leader import app as leader
from moiety_party.settings import PartySettings
from moiety_service.observability import tracing
from moiety_service.security.identity import Identity


def build(settings: PartySettings, identity: Identity, tracer: Tracer = tracing.NOBODY) -> FastAPI:
    if settings.role == "alice":
        return leader.build(settings, identity, tracer)
    return helper.build(settings, identity, tracer)
