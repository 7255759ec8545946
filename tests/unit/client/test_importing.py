"""The import's window, moved over a server that is nothing but its contract, and streams that break anywhere."""

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from vsync import CallError, ImportOptions, VsyncError, importing
from vsync.errors import error_of
from vsync.exporting import ExportCursor
from vsync.importing import ImportWindow
from vsync.reconnect import Reconnect
from vsync.rpc_status import RpcStatus
from vsync.v1 import cid_pb2


class Contract:
    """What the contract says of ImportCids: a chunk that is sent again is answered as before."""

    def __init__(self) -> None:
        self.answers: list[cid_pb2.ImportCidsResponse] = []
        self.taken: list[str] = []

    def open(self) -> cid_pb2.ImportCidsResponse:
        return cid_pb2.ImportCidsResponse(number=len(self.answers))

    def take(self, chunk: cid_pb2.ImportChunk) -> cid_pb2.ImportCidsResponse:
        assert chunk.number <= len(self.answers) + 1, "a gap"
        if chunk.number > len(self.answers):
            rejected = [
                cid_pb2.RejectedRecord(index=index, reason="INVALID_FIELD")
                for index, record in enumerate(chunk.records)
                if record.cid.endswith("7")
            ]
            self.taken += [record.cid for record in chunk.records]
            inserted = len(chunk.records) - len(rejected)
            answer = cid_pb2.ImportCidsResponse(number=chunk.number, inserted=inserted, rejected=rejected)
            self.answers.append(answer)
        return self.answers[chunk.number - 1]


def numbered(count: int) -> list[tuple[int, cid_pb2.CidRecord]]:
    return [(number, cid_pb2.CidRecord(cid=str(number))) for number in range(1, count + 1)]


def run_one_stream(window: ImportWindow, server: Contract, answers: int, rejected: list[int]) -> None:
    """One stream that breaks after so many answers, with everything else that was sent lost or committed."""
    window.opened(server.open())
    sent: list[cid_pb2.ImportChunk] = []
    while not window.done:
        while (request := window.next_request()) is not None:
            sent.append(request.chunk)
        if window.done:
            return
        if not answers:
            # Committed, but the answer never arrived.
            server.take(sent[0])
            return
        answers -= 1
        progress = window.acknowledge(server.take(sent.pop(0)))
        rejected += [rejection.position for rejection in progress.rejections]


@given(
    count=st.integers(0, 60),
    chunk_size=st.integers(1, 7),
    depth=st.integers(1, 4),
    breaks=st.lists(st.integers(0, 5), max_size=5),
)
def test_every_record_is_taken_once_and_answered_for_once(
    count: int, chunk_size: int, depth: int, breaks: list[int]
) -> None:
    options = ImportOptions(chunk_size=chunk_size, window=depth)
    window, server = ImportWindow(iter(numbered(count)), options), Contract()
    rejected: list[int] = []
    for answers in [*breaks, count + 1]:
        run_one_stream(window, server, answers, rejected)
    assert window.done
    assert server.taken == [str(number) for number in range(1, count + 1)]
    assert rejected == [number for number in range(1, count + 1) if number % 10 == 7]
    progress = window.progress
    assert (progress.records, progress.rejected, progress.inserted) == (count, len(rejected), count - len(rejected))
    assert progress.streams == len(breaks) + 1


def test_an_import_that_is_resumed_sends_everything_again_and_is_answered_alike() -> None:
    options, server = ImportOptions(chunk_size=2), Contract()
    first, second = (ImportWindow(iter(numbered(9)), options) for _ in range(2))
    run_one_stream(first, server, 2, [])
    run_one_stream(second, server, 99, [])
    assert second.done
    assert second.progress.committed_before == 3
    assert server.taken == [str(number) for number in range(1, 10)]
    assert (second.progress.inserted, second.progress.rejected) == (8, 1)


@given(sizes=st.lists(st.integers(0, 120), max_size=40), chunk_size=st.integers(1, 7))
def test_no_chunk_is_larger_than_a_message_but_one_record_that_is(sizes: list[int], chunk_size: int) -> None:
    numbered = [(number, cid_pb2.CidRecord(cid="x" * size)) for number, size in enumerate(sizes, 1)]
    chunks: list[cid_pb2.ImportCidsRequest] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(importing, "MAX_MESSAGE_BYTES", 100)
        window = ImportWindow(iter(numbered), ImportOptions(chunk_size=chunk_size, window=1))
        window.opened(cid_pb2.ImportCidsResponse())
        while (request := window.next_request()) is not None:
            chunks.append(request)
            window.acknowledge(cid_pb2.ImportCidsResponse(number=request.chunk.number))
        small = {number for number, record in numbered if importing.fits(record)}
    assert window.done
    assert window.progress.records == len(sizes)
    assert [record.cid for chunk in chunks for record in chunk.chunk.records] == [record.cid for _, record in numbered]
    assert all(len(chunk.chunk.records) == 1 for chunk in chunks if chunk.ByteSize() > 100)
    assert all(
        cid_pb2.ImportCidsRequest(chunk=cid_pb2.ImportChunk(number=2**62, records=[numbered[number - 1][1]])).ByteSize()
        <= 100
        for number in small
    )


def test_the_window_bounds_what_is_under_way() -> None:
    window = ImportWindow(iter(numbered(100)), ImportOptions(chunk_size=1, window=3))
    window.opened(cid_pb2.ImportCidsResponse())
    assert [window.next_request() is not None for _ in range(4)] == [True, True, True, False]


def test_an_answer_to_another_chunk_is_refused() -> None:
    window = ImportWindow(iter(numbered(3)), ImportOptions(chunk_size=1))
    window.opened(cid_pb2.ImportCidsResponse())
    with pytest.raises(VsyncError, match="not sent"):
        window.acknowledge(cid_pb2.ImportCidsResponse(number=1))
    window.next_request()
    with pytest.raises(VsyncError, match="not sent"):
        window.acknowledge(cid_pb2.ImportCidsResponse(number=2))


def test_an_error_that_names_its_record_leads_to_its_position() -> None:
    window = ImportWindow(iter(numbered(6)), ImportOptions(chunk_size=3))
    assert window.position_of(error(grpc.StatusCode.ALREADY_EXISTS, index="1")) is None
    window.opened(cid_pb2.ImportCidsResponse())
    window.next_request()
    window.next_request()
    window.acknowledge(cid_pb2.ImportCidsResponse(number=1))
    assert window.position_of(error(grpc.StatusCode.ALREADY_EXISTS, index="1")) == 5
    assert window.position_of(error(grpc.StatusCode.ALREADY_EXISTS, index="99")) is None
    assert window.position_of(error(grpc.StatusCode.ALREADY_EXISTS)) is None


@pytest.mark.parametrize("sizes", [{"chunk_size": 0}, {"chunk_size": 1001}, {"window": 0}])
def test_sizes_out_of_range_are_refused(sizes: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"chunk_size|window"):
        ImportOptions(chunk_size=sizes.get("chunk_size", 1), window=sizes.get("window", 1))


def error(code: grpc.StatusCode, **metadata: str) -> CallError:
    return error_of(RpcStatus(code=code, message="", metadata=metadata))


def test_an_export_goes_on_behind_the_last_message() -> None:
    request = cid_pb2.ExportCidsRequest(cids_only=True)
    cursor = ExportCursor(request, Reconnect(60))
    cursor.received(cid_pb2.ExportCidsResponse(resume_token="a"))
    cursor.received(cid_pb2.ExportCidsResponse())
    assert cursor.request == cid_pb2.ExportCidsRequest(cids_only=True, resume_token="a")
    assert not request.resume_token
