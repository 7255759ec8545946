"""The client's streams during network faults: each resumes, or fails after its reconnect timeout."""

import asyncio
import math
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import pytest
import vsync
from google.protobuf.timestamp_pb2 import Timestamp
from vsync import reconnect, response_streams
from vsync.health.v1 import health_pb2
from vsync.reconnect import OnReconnect
from vsync.v1 import cid_pb2
from vsync.v1 import reconciliation_pb2 as pb

from tests.harness.cids import until
from tests.harness.client_streams import Enough, Reader, never
from tests.harness.fault_proxy import FaultProxy
from tests.harness.peer import SILENCE, Broken, Peer, running_peer

# An upper limit for every test here: what takes longer hangs.
LIMIT_S = 60
LOST = Broken(grpc.StatusCode.UNAVAILABLE)


@dataclass(frozen=True)
class Stream:
    """A stream: the answers of a server, and the point at which it can be lost and resumed."""

    start: Callable[[Any, float, OnReconnect], Any]
    answers: Sequence[Any]
    """The messages of a complete stream. The first one only opens it."""
    resumed: Sequence[Any] = ()
    """The answers to a second call, if the first was lost after two messages. Empty: the stream is not resumed."""
    expected: Sequence[Any] = ()
    """The items that the caller receives from both calls."""
    enough: Enough = never


def _token(name: str) -> cid_pb2.ExportCidsResponse:
    return cid_pb2.ExportCidsResponse(resume_token=name, snapshot_time=Timestamp(seconds=1))


def _import(client: Any, timeout_s: float, on_reconnect: OnReconnect) -> Any:
    records = [cid_pb2.CidRecord(cid=str(number)) for number in range(2)]
    return client.import_records(
        records, vsync.ImportOptions(chunk_size=1, reconnect_timeout=timeout_s), on_reconnect=on_reconnect
    )


def _ack(number: int) -> cid_pb2.ImportCidsResponse:
    return cid_pb2.ImportCidsResponse(number=number, inserted=min(number, 1))


def _diff(client: Any, timeout_s: float, on_reconnect: OnReconnect) -> Any:
    options = vsync.DiffOptions(
        ispb="12345678",
        key_type=cid_pb2.KEY_TYPE_CPF,
        file_created_at=datetime(2026, 1, 1, tzinfo=UTC),
        reconnect_timeout=timeout_s,
    )
    return client.diff([], options, on_reconnect=on_reconnect)


ACCEPTED = pb.DiffCidSetResponse(progress=pb.DiffProgress())
EQUAL = pb.DiffCidSetResponse(
    summary=pb.DiffSummary(
        our_vsync=pb.Vsync(vsync="0" * 64), their_vsync=pb.Vsync(vsync="0" * 64), differences_vsync="0" * 64
    )
)
EVENTS = [pb.WatchCidEventsResponse(resume_token=token) for token in "abcd"]
HEALTH = [health_pb2.HealthResponse(message=message) for message in "abcd"]

STREAMS = {
    "export": Stream(
        lambda client, timeout_s, on_reconnect: client.export(
            cid_pb2.ExportCidsRequest(), reconnect_timeout=timeout_s, on_reconnect=on_reconnect
        ),
        answers=[_token(""), _token("a"), _token("b")],
        resumed=[_token("a"), _token("b")],
        expected=[_token(""), _token("a"), _token("a"), _token("b")],
    ),
    "import": Stream(_import, answers=[_ack(0), _ack(1), _ack(2)], resumed=[_ack(1), _ack(2)]),
    "diff": Stream(_diff, answers=[ACCEPTED, EQUAL]),
    "watch_events": Stream(
        lambda client, timeout_s, on_reconnect: client.watch_cid_events(
            pb.WatchCidEventsRequest(), reconnect_timeout=timeout_s, on_reconnect=on_reconnect
        ),
        answers=[*EVENTS[:3], SILENCE],
        resumed=[EVENTS[2], SILENCE],
        expected=EVENTS[:3],
        enough=lambda messages: len(messages) == 3,
    ),
    "watch_health": Stream(
        lambda client, timeout_s, on_reconnect: client.watch_health(
            health_pb2.HealthRequest(), reconnect_timeout=timeout_s, on_reconnect=on_reconnect
        ),
        answers=[*HEALTH[:3], SILENCE],
        resumed=[HEALTH[2], SILENCE],
        expected=HEALTH[:3],
        enough=lambda messages: len(messages) == 3,
    ),
}
RESUMED = [name for name, stream in STREAMS.items() if stream.resumed]


@dataclass
class Losses:
    """Counts the losses that a stream reports, from any thread."""

    errors: list[vsync.CallError] = field(default_factory=list)
    first: threading.Event = field(default_factory=threading.Event)

    def __call__(self, error: vsync.CallError, _delay: float) -> None:
        self.errors.append(error)
        self.first.set()


@pytest.fixture
def losses() -> Losses:
    return Losses()


@pytest.fixture
def peer(tmp_path: Path) -> Iterator[Peer]:
    with running_peer(f"unix:{tmp_path}/peer") as peer:
        yield peer


@pytest.fixture
async def proxy(peer: Peer) -> AsyncIterator[FaultProxy]:
    """A proxy in front of the peer."""
    async with FaultProxy(peer.target.removeprefix("unix:")) as proxy:
        yield proxy


@pytest.fixture(params=STREAMS)
def name(request: pytest.FixtureRequest) -> str:
    chosen: str = request.param
    return chosen


@pytest.fixture
def read(proxy: FaultProxy, twin: str, losses: Losses) -> Callable[..., asyncio.Task[list[Any]]]:
    """Begins to read a stream through the proxy."""

    def begin(name: str, *, timeout_s: float = LIMIT_S) -> asyncio.Task[list[Any]]:
        stream = STREAMS[name]
        reader = Reader(
            twin,
            f"127.0.0.1:{proxy.port}",
            lambda client: stream.start(client, timeout_s, losses),
            stream.enough,
        )
        return asyncio.get_running_loop().create_task(reader.read())

    return begin


Read = Callable[..., asyncio.Task[list[Any]]]


def assert_complete(name: str, messages: list[Any]) -> None:
    """Returns whether these are the messages of an uninterrupted stream."""
    if name == "import":
        assert [(step.number, step.records) for step in messages] == [(1, 1), (2, 2)]
    else:
        assert messages == [answer for answer in STREAMS[name].answers if answer is not SILENCE]


async def within_limit(task: asyncio.Task[list[Any]]) -> list[Any]:
    async with asyncio.timeout(LIMIT_S):
        return await task


async def test_a_call_without_an_answer_is_repeated(
    name: str, peer: Peer, read: Read, losses: Losses, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconnect, "MAX_FIRST_MESSAGE_S", 0.5)
    peer.will([SILENCE], *[STREAMS[name].answers] * 5)  # a machine that pauses may cost further attempts
    assert_complete(name, await within_limit(read(name)))
    assert losses.errors[0].code is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_a_connection_lost_before_the_first_message_is_replaced(
    name: str, peer: Peer, proxy: FaultProxy, read: Read, losses: Losses
) -> None:
    peer.will([SILENCE], STREAMS[name].answers)
    task = read(name)
    await asyncio.to_thread(peer.calls.get, timeout=LIMIT_S)
    proxy.cut()
    assert_complete(name, await within_limit(task))
    assert len(losses.errors) >= 1


async def test_the_client_reconnects_to_a_restarted_server(
    name: str, peer: Peer, proxy: FaultProxy, read: Read, losses: Losses
) -> None:
    await proxy.refuse()
    peer.will(STREAMS[name].answers)
    task = read(name)
    await asyncio.to_thread(losses.first.wait, LIMIT_S)
    await proxy.accept()
    assert_complete(name, await within_limit(task))


@pytest.mark.parametrize("fault", ["black hole", "refused", "unanswered"])
async def test_a_stream_without_a_first_message_fails_after_the_timeout(
    name: str, fault: str, peer: Peer, proxy: FaultProxy, read: Read
) -> None:
    if fault == "black hole":
        proxy.hang()
    elif fault == "refused":
        await proxy.refuse()
    else:
        peer.will(*[[SILENCE]] * 5)
    with pytest.raises((vsync.UnavailableError, vsync.DeadlineExceededError)):
        await within_limit(read(name, timeout_s=0.7))


@pytest.mark.parametrize("name", RESUMED)
async def test_a_lost_stream_is_resumed_without_loss_or_repetition(
    name: str, peer: Peer, read: Read, losses: Losses
) -> None:
    stream = STREAMS[name]
    peer.will([*stream.answers[:2], LOST], stream.resumed)
    messages = await within_limit(read(name))
    if name == "import":
        assert_complete(name, messages)
    else:
        assert messages == stream.expected
    assert [error.code for error in losses.errors] == [grpc.StatusCode.UNAVAILABLE]
    _, second = peer.seen()
    if name in {"export", "watch_events"}:
        assert second.requests[0].resume_token == stream.answers[1].resume_token


@pytest.mark.parametrize("name", ["export", "import"])
async def test_a_stream_that_stalls_fails_after_the_timeout(name: str, peer: Peer, read: Read) -> None:
    peer.will([STREAMS[name].answers[0], SILENCE], *[[SILENCE]] * 5)
    with pytest.raises(vsync.DeadlineExceededError):
        await within_limit(read(name, timeout_s=0.7))


async def test_an_accepted_comparison_is_not_repeated(peer: Peer, read: Read, losses: Losses) -> None:
    peer.will([ACCEPTED, LOST])
    with pytest.raises(vsync.UnavailableError):
        await within_limit(read("diff"))
    assert not losses.errors


async def test_a_silent_watch_is_repeated(
    peer: Peer, read: Read, losses: Losses, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(response_streams.CidEventStream, "max_silence", 3)  # more than a machine pauses
    stream = STREAMS["watch_events"]
    peer.will([*stream.answers[:2], SILENCE], *[stream.resumed] * 5)
    assert await within_limit(read("watch_events")) == stream.expected
    assert losses.errors[0].code is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_a_watch_that_the_server_ends_is_repeated(peer: Peer, read: Read) -> None:
    stream = STREAMS["watch_health"]
    peer.will(stream.answers[:2], stream.resumed)
    assert await within_limit(read("watch_health")) == stream.expected


async def test_keepalive_detects_the_lost_connection_of_a_silent_stream(
    peer: Peer, proxy: FaultProxy, twin: str, losses: Losses, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A health watch may be silent for any time: only a ping detects a lost connection."""
    monkeypatch.setattr("vsync.channel.KEEPALIVE_TIME_S", 1)
    monkeypatch.setattr("vsync.channel.KEEPALIVE_TIMEOUT_S", 3)  # more than a machine pauses
    assert math.isinf(response_streams.HealthStream.max_silence)
    arrived, stream = threading.Event(), STREAMS["watch_health"]

    def enough(messages: Sequence[Any]) -> bool:
        if len(messages) == 2:
            arrived.set()
        return stream.enough(messages)

    peer.will([*stream.answers[:2], SILENCE], *[stream.resumed] * 5)
    reader = Reader(twin, f"127.0.0.1:{proxy.port}", lambda client: stream.start(client, LIMIT_S, losses), enough)
    task = asyncio.get_running_loop().create_task(reader.read())
    await asyncio.to_thread(arrived.wait, LIMIT_S)
    proxy.hang()
    assert await asyncio.to_thread(losses.first.wait, LIMIT_S)
    proxy.flow()
    assert await within_limit(task) == stream.expected


async def test_the_client_reconnects_after_an_error_of_the_server(
    name: str, peer: Peer, proxy: FaultProxy, read: Read, losses: Losses
) -> None:
    """A call that gRPC itself retries hangs for ever after this sequence: no server receives it again."""
    peer.will([LOST])
    task = read(name)
    await asyncio.to_thread(peer.calls.get, timeout=LIMIT_S)
    await proxy.refuse()
    await until(lambda: len(losses.errors) >= 3)
    peer.will(*[STREAMS[name].answers] * 3)  # a call that came before the port was closed takes one
    await proxy.accept()
    assert_complete(name, await within_limit(task))
