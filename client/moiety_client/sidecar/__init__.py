"""The client's sidecar: the Open Inference Protocol and a web page on the client's own machine.

It listens on loopback: what arrives here is plaintext, and it is split and sealed before it leaves.
"""

from moiety_client.sidecar.app import build
from moiety_client.sidecar.guard import Exposed
from moiety_client.sidecar.metrics import ClientMetrics
from moiety_client.sidecar.upstream import Upstream

__all__ = ["ClientMetrics", "Exposed", "Upstream", "build"]
