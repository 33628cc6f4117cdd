"""The sidecar: a program on the client's own machine that speaks the Open Inference Protocol and serves a web page.

It takes plaintext, so it listens on loopback only. It splits and seals each input before the input leaves the machine.
"""

from moiety_client.sidecar.app import build
from moiety_client.sidecar.guard import Exposed
from moiety_client.sidecar.metrics import ClientMetrics
from moiety_client.sidecar.upstream import Upstream

__all__ = ["ClientMetrics", "Exposed", "Upstream", "build"]
