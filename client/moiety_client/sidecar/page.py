"""Serves the web page, and the description of the REST interface, from files of this package."""

from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import FileResponse

from moiety_service.http import page

_OWN = Path(__file__).parent / "web"


def serve(app: FastAPI) -> None:
    """Serve the page at `/`, the description of the REST interface at `/docs`, and the files of both below `/web/`."""
    page.serve(app, _OWN, page.safety())

    @app.get("/docs", include_in_schema=False)
    async def docs() -> FileResponse:
        return FileResponse(_OWN / "docs.html", headers=page.ASK_AGAIN)
