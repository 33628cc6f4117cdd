"""Serves the web page from the files of this package. The page loads nothing from other sites."""

from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import FileResponse
from starlette.staticfiles import StaticFiles

_WEB = Path(__file__).parent / "web"
_ASK_AGAIN = {"cache-control": "no-cache"}


def serve(app: FastAPI) -> None:
    """Serve the page at `/`, the description of the REST interface at `/docs`, and the files of both below `/web/`."""

    @app.get("/", include_in_schema=False)
    async def index() -> FileResponse:
        return FileResponse(_WEB / "index.html", headers=_ASK_AGAIN)

    @app.get("/docs", include_in_schema=False)
    async def docs() -> FileResponse:
        return FileResponse(_WEB / "docs.html", headers=_ASK_AGAIN)

    app.mount("/web", StaticFiles(directory=_WEB), name="web")
