"""A load of unary calls: requests made ahead, so that the load costs as little as it can beside what it measures.

`python -m bench.load PORT METHOD CONCURRENCY` reads length-prefixed requests from standard input, sends them all with
so many in flight, and prints seconds and the number of errors.
"""

import asyncio
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence

import grpc
import uvloop


def run(port: int, method: str, requests: Sequence[bytes], *, concurrency: int) -> float:
    """Calls per second. Raises RuntimeError when a call failed."""
    command = [sys.executable, "-m", "bench.load", str(port), method, str(concurrency)]
    data = b"".join(struct.pack("!I", len(request)) + request for request in requests)
    result = subprocess.run(command, input=data, stdout=subprocess.PIPE, check=True)
    seconds, errors = result.stdout.split()
    if int(errors):
        raise RuntimeError(f"{int(errors)} of {len(requests)} calls of {method} failed")
    return len(requests) / float(seconds)


async def _drive(port: int, method: str, concurrency: int, requests: list[bytes]) -> tuple[float, int]:
    errors = 0
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(method)
        await channel.channel_ready()
        pending: Iterator[bytes] = iter(requests)

        async def work() -> None:
            nonlocal errors
            for request in pending:
                try:
                    await call(request)
                except grpc.aio.AioRpcError:
                    errors += 1

        begin = time.perf_counter()
        await asyncio.gather(*(work() for _ in range(concurrency)))
        return time.perf_counter() - begin, errors


def _read() -> list[bytes]:
    data = sys.stdin.buffer.read()
    requests, at = [], 0
    while at < len(data):
        (length,) = struct.unpack_from("!I", data, at)
        requests.append(data[at + 4 : at + 4 + length])
        at += 4 + length
    return requests


if __name__ == "__main__":
    print(*uvloop.run(_drive(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), _read())))
