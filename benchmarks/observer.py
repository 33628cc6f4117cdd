"""Watches a deployment in the benchmarks. `python -m … PORT METRICS_URL…`.

It takes spans as a collector does, and reads metrics each second as Prometheus does. It keeps neither.
"""

import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx

_SCRAPE_SECONDS = 1.0


class _Collector(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing."""


def _scrape(urls: list[str]) -> None:
    with httpx.Client(trust_env=False) as client:
        while True:
            for url in urls:
                client.get(f"{url}/metrics").raise_for_status()
            time.sleep(_SCRAPE_SECONDS)


if __name__ == "__main__":
    threading.Thread(target=_scrape, args=(sys.argv[2:],), daemon=True).start()
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), _Collector).serve_forever()
