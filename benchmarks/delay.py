"""A TCP proxy that delays every byte by half a round trip in each direction. `python -m … MS LISTEN:TARGET …`."""

import asyncio
import contextlib
import sys

_CHUNK = 1 << 18


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seconds: float) -> None:
    loop = asyncio.get_running_loop()
    held: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

    async def release() -> None:
        while True:
            due, chunk = await held.get()
            await asyncio.sleep(max(0.0, due - loop.time()))
            if not chunk:
                writer.close()
                return
            writer.write(chunk)
            await writer.drain()

    releasing = asyncio.create_task(release())
    with contextlib.suppress(ConnectionError):
        while chunk := await reader.read(_CHUNK):
            held.put_nowait((loop.time() + seconds, chunk))
    held.put_nowait((loop.time() + seconds, b""))
    with contextlib.suppress(ConnectionError):
        await releasing


async def proxy(listen: int, target: int, milliseconds: float) -> None:
    """Serve until cancelled. `milliseconds` is the round trip that the proxy adds."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", target)
            half = milliseconds / 2e3
            await asyncio.gather(_pump(reader, inner_writer, half), _pump(inner_reader, writer, half))

    server = await asyncio.start_server(serve, "127.0.0.1", listen)
    async with server:
        await server.serve_forever()


async def _main(milliseconds: float, pairs: list[str]) -> None:
    ports = [tuple(map(int, pair.split(":"))) for pair in pairs]
    await asyncio.gather(*(proxy(listen, target, milliseconds) for listen, target in ports))


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_main(float(sys.argv[1]), sys.argv[2:]))
