"""Clients of the SDK that ask at the same time, for the suite `load`: `python -m … FOLDER FIRST LAST SECONDS`.

It uses the access files FIRST.json to LAST - 1.json, says "ready", begins when its input ends, and prints what it got.
"""

import asyncio
import json
import sys
import time
from pathlib import Path

import numpy as np

from moiety_client.client import AsyncClient
from moiety_local import mnist


async def ask(client: AsyncClient, image: mnist.Pixels, until: float) -> int:
    """Ask for one image again and again. Returns how many answers came."""
    answers, expected = 0, int(mnist.float_outputs(image).argmax())
    while time.perf_counter() < until:
        answer = await client.predict("mnist", image)
        if int(np.asarray(answer.labels)[0]) != expected:
            raise SystemExit("a wrong answer")
        answers += 1
    return answers


async def main(folder: Path, first: int, last: int, seconds: float) -> None:
    pixels, _ = mnist.test_images(last, None)
    clients = [AsyncClient.from_access(folder / f"{number}.json") for number in range(first, last)]
    images = [pixels[number : number + 1] for number in range(first, last)]
    for client, image in zip(clients, images, strict=True):
        await client.predict("mnist", image)
    print("ready", flush=True)
    sys.stdin.read()
    started = time.perf_counter()
    counts = await asyncio.gather(
        *(ask(client, image, started + seconds) for client, image in zip(clients, images, strict=True))
    )
    print(json.dumps({"answers": sum(counts), "seconds": time.perf_counter() - started}))
    for client in clients:
        await client.close()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])))
