"""The yardstick of the benchmarks: a FastAPI app that returns the body it gets. `python -m … PORT`."""

import sys

import uvicorn
from fastapi import FastAPI, Request, Response


def build() -> FastAPI:
    app = FastAPI()

    @app.get("/health/live")
    async def live() -> dict[str, str]:
        return {"status": "live"}

    @app.post("/echo")
    async def echo(request: Request) -> Response:
        return Response(await request.body())

    return app


if __name__ == "__main__":
    uvicorn.run(build(), port=int(sys.argv[1]), log_config=None, access_log=False)
