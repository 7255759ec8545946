"""The HTTP server by itself, with clients that behave and clients that do not."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Mapping
from http import HTTPStatus

import pytest
from vsyncd.config.endpoints import HostPort
from vsyncd.http.server import HttpServer, Limits, Response

from tests.harness.http import exchange, get
from tests.harness.logs import captured_logs

HOST = b"Host: test\r\n"
PING = b"GET /ping HTTP/1.1\r\n" + HOST + b"\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
LAST_PING = b"GET /ping HTTP/1.1\r\nConnection: close\r\n" + HOST + b"\r\n"


async def ping(headers: Mapping[str, str]) -> Response:
    return Response(HTTPStatus.OK, f'{{"agent": "{headers.get("user-agent", "")}"}}'.encode())


async def fail(_: Mapping[str, str]) -> Response:
    raise RuntimeError("hunter2")


async def much(_: Mapping[str, str]) -> Response:
    return Response(HTTPStatus.OK, bytes(32 * 1024 * 1024))


@contextlib.asynccontextmanager
async def served(limits: Limits | None = None) -> AsyncIterator[int]:
    server = HttpServer({"/ping": ping, "/fail": fail, "/much": much}, limits=limits)
    try:
        yield await server.start(HostPort("127.0.0.1", 0))
    finally:
        await server.stop()


async def test_a_known_path_is_answered() -> None:
    async with served() as port:
        answer = await get(port, "/ping?what=ever", user_agent="kube-probe/1.34")
    assert (answer.status, answer.json) == (200, {"agent": "kube-probe/1.34"})
    assert answer.headers["content-length"] == str(len(answer.body))
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["date"].endswith(" GMT")


async def test_head_is_get_without_a_body() -> None:
    async with served() as port:
        answer = await get(port, "/ping", method="HEAD")
        assert (answer.status, answer.body) == (200, b"")
        assert answer.headers["content-length"] == str(len((await get(port, "/ping")).body))
        both = await exchange(port, PING.replace(b"GET", b"HEAD"), LAST_PING)
    assert both.count(b"HTTP/1.1 200 OK") == 2
    assert both.count(b'{"agent"') == 1


@pytest.mark.parametrize("path", ["/", "/pin", "/ping/", "/ping/../fail", "//ping", "/%70ing", "*"])
async def test_an_unknown_path_is_404(path: str) -> None:
    async with served() as port:
        assert (await get(port, path)).status == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
async def test_another_method_is_405(method: str) -> None:
    async with served() as port:
        answer = await get(port, "/ping", method=method, body=b"x" * 50_000)
    assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD")


async def test_a_route_that_fails_is_500_and_says_nothing() -> None:
    with captured_logs() as log:
        async with served() as port:
            answer = await get(port, "/fail")
            assert (await get(port, "/ping")).status == 200
    assert (answer.status, answer.json) == (500, {"message": "Internal Server Error"})
    assert [line["path"] for line in log.named("internal error")] == ["/fail"]
    assert "hunter2" not in log.text


async def test_a_connection_is_used_again_also_for_requests_that_do_not_wait() -> None:
    async with served() as port:
        answers = await exchange(port, PING * 3 + LAST_PING)
    assert answers.count(b"HTTP/1.1 200 OK") == 4


async def test_old_clients_get_one_answer_and_the_end() -> None:
    async with served() as port:
        assert (await exchange(port, b"GET /ping HTTP/1.0\r\n\r\n")).startswith(b"HTTP/1.1 200 OK")


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"400"),  # TLS
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"505"),  # HTTP/2 without asking
        (b"nonsense\r\n\r\n", b"400"),
        (b"GET /ping HTTP/1.1\r\n\r\n", b"400"),  # no Host
        (b"GET http://[ HTTP/1.1\r\nConnection: close\r\n" + HOST + b"\r\n", b"400"),
        (b"GET /ping HTTP/1.1\r\n" + HOST + b"A: " + b"x" * 20_000, b"431"),
        (b"POST /ping HTTP/1.1\r\n" + HOST + b"Content-Length: 1000000\r\n\r\n" + bytes(100_000), b"413"),
        (b"HEAD /ping HTTP/1.1\r\n" + HOST + b"Content-Length: 1000000\r\n\r\n" + bytes(100_000), b"413"),
        (b"POST /ping HTTP/1.1\r\n" + HOST + b"Content-Length: 9\r\nExpect: 100-continue\r\n\r\n", b"417"),
        (b"POST /ping HTTP/1.1\r\n" + HOST + CHUNKED + b"Content-Length: 5\r\n\r\n0\r\n\r\n" + PING, b"400"),
        (b"GET /ping HTTP/1.1\r\n" + HOST + b"Content-Length: 5\r\n" + CHUNKED + b"\r\n0\r\n\r\n" + PING, b"400"),
        (b"POST /ping HTTP/1.0\r\n" + CHUNKED + b"Connection: keep-alive\r\n\r\n0\r\n\r\n" + PING, b"400"),
        (PING + b"nonsense\r\n\r\n", b"200"),
        (PING.replace(b"GET", b"HEAD") + b"nonsense\r\n\r\n", b"200"),
    ],
)
async def test_what_is_no_request_ends_its_connection_and_no_other(sent: bytes, status: bytes) -> None:
    async with served() as port:
        with contextlib.suppress(ConnectionResetError):  # it sent more than anybody wants to read
            assert (await exchange(port, sent))[9:12] == status
        assert (await get(port, "/ping")).status == 200


async def test_a_request_that_does_not_end_is_408() -> None:
    async with served(Limits(request=0.1)) as port:
        assert (await exchange(port, b"GET /ping HTTP/1.1\r\n", HOST)).startswith(b"HTTP/1.1 408")
        assert await exchange(port) == b""


async def test_a_byte_now_and_then_does_not_keep_a_request_alive() -> None:
    async with served(Limits(request=0.2)) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /ping HTTP/1.1\r\n")
        answer = asyncio.create_task(reader.readline())
        while not answer.done():
            with contextlib.suppress(ConnectionError):
                writer.write(b"A: b\r\n")
            await asyncio.wait({answer}, timeout=0.02)
        assert answer.result().startswith(b"HTTP/1.1 408")
        writer.close()


async def test_an_idle_connection_is_closed() -> None:
    async with served(Limits(idle=0.1)) as port:
        # It ends by itself; before the request, too, where the tests' machine pauses in between.
        answer = b""
        while not answer:
            with contextlib.suppress(ConnectionResetError):
                answer = await exchange(port, PING)
    assert answer.startswith(b"HTTP/1.1 200 OK")


async def test_a_client_that_takes_nothing_is_cut_off() -> None:
    async with served(Limits(response=0.2)) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
        writer.write(b"GET /much HTTP/1.1\r\n" + HOST + b"\r\n")
        taken = await reader.read(100)
        assert taken.startswith(b"HTTP/1.1 200 OK")
        with pytest.raises(ConnectionResetError):
            await until_reset(reader)
        writer.close()


async def until_reset(reader: asyncio.StreamReader) -> None:
    """Take a little, then nothing for a while: what comes behind it was never sent."""
    await asyncio.sleep(0.5)  # longer than the server's patience: that it passes is the point
    while await reader.read(65536):
        pass
    raise ConnectionResetError  # an end before all of it came; which of the two is the system's choice


async def test_the_longest_idle_connection_gives_way_to_a_new_one() -> None:
    async with served(Limits(connections=3)) as port:
        held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(3)]
        for reader, writer in held:
            writer.write(PING)
            await reader.readuntil(b"}")
        assert (await get(port, "/ping")).status == 200
        async with asyncio.timeout(60):
            assert await held[0][0].read() == b""
        held[1][1].write(PING)
        assert (await held[1][0].readuntil(b"}")).startswith(b"HTTP/1.1 200 OK")
        for _, writer in held:
            writer.close()


async def test_requests_that_do_not_end_give_way_to_a_new_one() -> None:
    async with served(Limits(connections=3)) as port:
        held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(3)]
        for _, writer in held:
            writer.write(b"G")
            await writer.drain()
        assert (await get(port, "/ping")).status == 200
        reads = [asyncio.create_task(reader.read()) for reader, _ in held]
        async with asyncio.timeout(60):
            (ended, *_), _ = await asyncio.wait(reads, return_when=asyncio.FIRST_COMPLETED)
        assert ended.result() == b""
        for read in reads:
            read.cancel()
        for _, writer in held:
            writer.close()


async def test_others_come_between_requests_that_came_together() -> None:
    count, turns = 500, 0

    async def turn() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async with served() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        turning = asyncio.create_task(turn())
        writer.write((count - 1) * PING + LAST_PING)
        answers = await reader.read()
        turning.cancel()
        writer.close()
    assert answers.count(b"200 OK") == count
    assert turns > count


async def test_stopping_waits_for_nobody() -> None:
    async with served() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /pi")
        await writer.drain()
        assert (await get(port, "/ping")).status == 200
    async with asyncio.timeout(60):
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""
    writer.close()
    with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
        pass
