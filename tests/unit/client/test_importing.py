"""The state of an import and an export across lost streams, without a connection."""

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from vsync import CallError, ImportOptions, VsyncError, importing
from vsync.errors import error_class
from vsync.importing import ImportStream
from vsync.response_streams import ExportStream
from vsync.v1 import cid_pb2


class Contract:
    """Answers ImportCids as the contract requires: a chunk that is sent again gets the same answer."""

    def __init__(self) -> None:
        self.answers: list[cid_pb2.ImportCidsResponse] = []
        self.committed: list[str] = []

    def open(self) -> cid_pb2.ImportCidsResponse:
        return cid_pb2.ImportCidsResponse(number=len(self.answers))

    def commit(self, chunk: cid_pb2.ImportChunk) -> cid_pb2.ImportCidsResponse:
        assert chunk.number <= len(self.answers) + 1, "a gap"
        if chunk.number > len(self.answers):
            rejected = [
                cid_pb2.RejectedRecord(index=index, reason="INVALID_FIELD")
                for index, record in enumerate(chunk.records)
                if record.cid.endswith("7")
            ]
            self.committed += [record.cid for record in chunk.records]
            inserted = len(chunk.records) - len(rejected)
            answer = cid_pb2.ImportCidsResponse(number=chunk.number, inserted=inserted, rejected=rejected)
            self.answers.append(answer)
        return self.answers[chunk.number - 1]


def numbered(count: int) -> list[tuple[int, cid_pb2.CidRecord]]:
    return [(number, cid_pb2.CidRecord(cid=str(number))) for number in range(1, count + 1)]


def run_one_attempt(stream: ImportStream, server: Contract, answers: int, rejected: list[int]) -> None:
    """Runs one attempt, which is lost after `answers` answers; a further chunk is committed without an answer."""
    open_stream(stream, server.open())
    sent: list[cid_pb2.ImportChunk] = []
    while True:
        sent += [request.chunk for request in stream.requests()]
        if stream.upload_complete:
            return
        if not answers:
            # Committed, but the answer never arrived.
            server.commit(sent[0])
            return
        answers -= 1
        progress = stream.received(server.commit(sent.pop(0)))
        assert progress is not None
        rejected += [rejection.position for rejection in progress.rejections]


def open_stream(stream: ImportStream, answer: cid_pb2.ImportCidsResponse | None = None) -> None:
    """Begins an attempt whose start the server accepts."""
    stream.begin()
    assert stream.received(answer or cid_pb2.ImportCidsResponse()) is None


@given(
    count=st.integers(0, 60),
    chunk_size=st.integers(1, 7),
    depth=st.integers(1, 4),
    breaks=st.lists(st.integers(0, 5), max_size=5),
)
def test_every_record_is_committed_once_across_lost_streams(
    count: int, chunk_size: int, depth: int, breaks: list[int]
) -> None:
    options = ImportOptions(chunk_size=chunk_size, window=depth)
    stream, server = ImportStream(iter(numbered(count)), options), Contract()
    rejected: list[int] = []
    for answers in [*breaks, count + 1]:
        run_one_attempt(stream, server, answers, rejected)
    assert stream.upload_complete
    assert server.committed == [str(number) for number in range(1, count + 1)]
    assert rejected == [number for number in range(1, count + 1) if number % 10 == 7]
    progress = stream.progress
    assert (progress.records, progress.rejected, progress.inserted) == (count, len(rejected), count - len(rejected))
    assert progress.streams == len(breaks) + 1


def test_a_resumed_import_sends_every_chunk_again_and_receives_equal_answers() -> None:
    options, server = ImportOptions(chunk_size=2), Contract()
    first, second = (ImportStream(iter(numbered(9)), options) for _ in range(2))
    run_one_attempt(first, server, 2, [])
    run_one_attempt(second, server, 99, [])
    assert second.upload_complete
    assert second.progress.committed_before == 3
    assert second.progress.records_before == 6
    assert server.committed == [str(number) for number in range(1, 10)]
    assert (second.progress.inserted, second.progress.rejected) == (8, 1)


@given(sizes=st.lists(st.integers(0, 120), max_size=40), chunk_size=st.integers(1, 7))
def test_chunks_fit_into_a_message_unless_a_single_record_does_not(sizes: list[int], chunk_size: int) -> None:
    numbered = [(number, cid_pb2.CidRecord(cid="x" * size)) for number, size in enumerate(sizes, 1)]
    chunks: list[cid_pb2.ImportCidsRequest] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(importing, "MAX_MESSAGE_BYTES", 100)
        stream = ImportStream(iter(numbered), ImportOptions(chunk_size=chunk_size, window=1))
        open_stream(stream)
        while requests := stream.requests():
            chunks += requests
            stream.received(cid_pb2.ImportCidsResponse(number=requests[0].chunk.number))
        small = {number for number, record in numbered if importing.fits(record)}
    assert stream.upload_complete
    assert stream.progress.records == len(sizes)
    assert [record.cid for chunk in chunks for record in chunk.chunk.records] == [record.cid for _, record in numbered]
    assert all(len(chunk.chunk.records) == 1 for chunk in chunks if chunk.ByteSize() > 100)
    assert all(
        cid_pb2.ImportCidsRequest(chunk=cid_pb2.ImportChunk(number=2**62, records=[numbered[number - 1][1]])).ByteSize()
        <= 100
        for number in small
    )


def test_the_window_limits_the_number_of_chunks_without_an_answer() -> None:
    stream = ImportStream(iter(numbered(100)), ImportOptions(chunk_size=1, window=3))
    open_stream(stream)
    assert len(stream.requests()) == 3
    assert not stream.requests()


def test_an_answer_to_another_chunk_is_an_error() -> None:
    stream = ImportStream(iter(numbered(3)), ImportOptions(chunk_size=1))
    open_stream(stream)
    with pytest.raises(VsyncError, match="not sent"):
        stream.received(cid_pb2.ImportCidsResponse(number=1))
    stream.requests()
    with pytest.raises(VsyncError, match="not sent"):
        stream.received(cid_pb2.ImportCidsResponse(number=2))


def test_the_position_of_a_failed_record_is_found_from_its_index() -> None:
    stream = ImportStream(iter(numbered(6)), ImportOptions(chunk_size=3))
    assert stream.position_of(error(grpc.StatusCode.ALREADY_EXISTS, index="1")) is None
    open_stream(stream)
    stream.requests()
    stream.received(cid_pb2.ImportCidsResponse(number=1))
    assert stream.position_of(error(grpc.StatusCode.ALREADY_EXISTS, index="1")) == 5
    assert stream.position_of(error(grpc.StatusCode.ALREADY_EXISTS, index="99")) is None
    assert stream.position_of(error(grpc.StatusCode.ALREADY_EXISTS)) is None


@pytest.mark.parametrize("sizes", [{"chunk_size": 0}, {"chunk_size": 1001}, {"window": 0}])
def test_sizes_out_of_range_are_rejected(sizes: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"chunk_size|window"):
        ImportOptions(chunk_size=sizes.get("chunk_size", 1), window=sizes.get("window", 1))


def error(code: grpc.StatusCode, **metadata: str) -> CallError:
    return error_class(code)(code, metadata=metadata)


def test_a_resumed_export_continues_after_the_last_message() -> None:
    request = cid_pb2.ExportCidsRequest(cids_only=True)
    stream = ExportStream(request, reconnect_timeout=60)
    stream.received(cid_pb2.ExportCidsResponse(resume_token="a"))
    stream.received(cid_pb2.ExportCidsResponse())
    assert stream.request == cid_pb2.ExportCidsRequest(cids_only=True, resume_token="a")
    assert not request.resume_token
