"""`vsync import`: rejected lines, their file, and resuming."""

import gzip
import json
import os
import shlex
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from google.protobuf import json_format
from vsync.sample import entries
from vsync.v1 import cid_pb2

from tests.harness.peer import Broken, Peer
from tests.harness.vsync_command import NOWHERE, Vsync


def test_an_import_reports_rejected_lines_and_writes_them_to_a_file(vsync: Vsync, peer: Peer) -> None:
    vsync("sample", "--count", "3", "--out", "r.ndjson")
    with Path("r.ndjson").open("a") as file:
        file.write('{"cid": 5}\n{oops\n')
    violation = cid_pb2.FieldViolation(field="tax_id", description="must be something else")
    rejected = cid_pb2.RejectedRecord(index=1, reason="INVALID_FIELD", violations=[violation])
    answers = [cid_pb2.ImportCidsResponse(), cid_pb2.ImportCidsResponse(number=1, inserted=2, rejected=[rejected])]
    peer.will(answers, answers)
    ran = vsync("import", "r.ndjson", "--target", peer.target)
    assert ran.code == 1
    assert "5 records of r.ndjson" in ran.out
    assert "line 2: tax_id must be something else" in ran.err
    assert "line 4: cid must be text in quotes" in ran.err
    assert "line 5: is not well-formed JSON" in ran.err
    kept = [json.loads(line) for line in Path("r.ndjson.rejected.ndjson").read_text().splitlines()]
    assert sorted(entry["line"] for entry in kept) == [2, 4, 5]
    result = vsync("import", "r.ndjson", "--target", peer.target, "--json", "--rejected", "elsewhere").json
    assert (result["records"], result["inserted"], result["rejected"]) == (5, 2, 3)
    assert result["rejected_file"] == "elsewhere"
    assert Path("elsewhere").stat().st_mode & 0o077 == 0


def test_an_import_that_the_server_rejects_reports_the_line(vsync: Vsync, peer: Peer) -> None:
    lines = b'{"cid": "a"}\n\n{"cid": "b"}\n'
    refusal = [cid_pb2.ImportCidsResponse(), Broken(grpc.StatusCode.ALREADY_EXISTS, "CID_EXISTS", index="1")]
    peer.will(refusal, refusal)
    ran = vsync("import", "-", "--on-conflict", "fail", "--target", peer.target, given=lines)
    assert ran.code == 1
    assert "line 3 error: broken (ALREADY_EXISTS" in ran.err
    ran = vsync("import", "-", "--json", "--target", peer.target, given=lines)
    assert isinstance(ran.json["error"], dict)
    assert ran.json["error"]["line"] == 3


def test_a_failed_import_prints_the_command_that_resumes_it(vsync: Vsync) -> None:
    import_id = str(uuid.uuid4())
    ran = vsync(
        "import", "-", "--resume", import_id, "--reconnect-timeout", "0", "--target", NOWHERE, given=b'{"cid": "a"}'
    )
    assert ran.code == 1
    assert f"vsync import - --resume {import_id}" in ran.err


def test_the_resuming_command_has_the_given_options(vsync: Vsync, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VSYNC_TARGET", NOWHERE)
    Path("my file.ndjson").write_text('{"cid": "a"}')
    given = [
        "my file.ndjson",
        "--on-conflict",
        "replace",
        "--rejected",
        "$elsewhere",
        "--reconnect-timeout",
        "0.0",
        "--timeout",
        "3.0",
    ]
    ran = vsync("import", *given)
    command = shlex.split(ran.err.splitlines()[-1])
    assert [*command[:4], *command[5:]] == ["vsync", "import", given[0], "--resume", *given[1:]]
    again = vsync(*command[1:])
    assert shlex.split(again.err.splitlines()[-1]) == command


def test_rejected_lines_cannot_overwrite_the_input_file(vsync: Vsync) -> None:
    Path("r.ndjson").write_text('{"cid": "a"}')
    assert vsync("import", "r.ndjson", "--rejected", "./r.ndjson", "--target", NOWHERE).code == 2
    assert Path("r.ndjson").exists()


def test_rejected_lines_cannot_overwrite_redirected_standard_input(vsync: Vsync) -> None:
    corrected = Path("import.rejected.ndjson")
    corrected.write_text('{"cid": "a"}')
    with corrected.open() as stdin:
        assert vsync("import", "-", "--target", NOWHERE, given=stdin).code == 2
    assert corrected.read_text() == '{"cid": "a"}'


def rejecting(count: int) -> cid_pb2.ImportCidsResponse:
    """Returns the answer to a first chunk of which this number of records is rejected."""
    rejected = [cid_pb2.RejectedRecord(index=index, reason="INVALID_FIELD") for index in range(count)]
    return cid_pb2.ImportCidsResponse(number=1, rejected=rejected)


OPENED = cid_pb2.ImportCidsResponse()


REFUSED = Broken(grpc.StatusCode.INVALID_ARGUMENT, "IMPORT_REUSED")


TWO_LINES = b'{"cid": "a"}\n{"cid": "b"}\n'


@pytest.mark.parametrize(
    ("answers", "kept"),
    [
        ([REFUSED], "corrected"),
        ([OPENED, REFUSED], "corrected"),
        ([OPENED, rejecting(0)], None),
        ([OPENED, rejecting(0), REFUSED], "corrected"),
        ([OPENED, rejecting(1)], [1]),
        ([OPENED, rejecting(1), REFUSED], [1]),
    ],
)
def test_older_rejected_lines_are_replaced_by_new_ones_or_by_success(
    vsync: Vsync, peer: Peer, answers: list[object], kept: str | list[int] | None
) -> None:
    path = Path("import.rejected.ndjson")
    path.write_text("corrected")
    peer.will(answers)
    vsync("import", "-", "--target", peer.target, given=TWO_LINES)
    if isinstance(kept, list):
        assert [json.loads(line)["line"] for line in path.read_text().splitlines()] == kept
        assert path.stat().st_mode & 0o077 == 0
    else:
        assert (path.read_text() if path.exists() else None) == kept
    assert set(Path().iterdir()) <= {path}


def test_older_rejected_lines_remain_if_the_server_is_unreachable(vsync: Vsync) -> None:
    Path("import.rejected.ndjson").write_text("corrected")
    assert vsync("import", "-", "--reconnect-timeout", "0", "--target", NOWHERE, given=b"{oops").code == 1
    assert Path("import.rejected.ndjson").read_text() == "corrected"
    assert len(list(Path().iterdir())) == 1


def test_a_resumed_import_keeps_the_rejected_lines_of_the_earlier_run(vsync: Vsync, peer: Peer) -> None:
    """The resumed run rejects these lines again, unless it ends before it reaches them."""
    path = Path("import.rejected.ndjson")

    def resumed(*answers: object) -> list[int]:
        peer.will([OPENED, *answers])
        vsync("import", "-", "--resume", str(uuid.UUID(int=7)), "--target", peer.target, given=TWO_LINES)
        return [json.loads(line)["line"] for line in path.read_text().splitlines()]

    assert resumed(rejecting(1), REFUSED) == [1]
    assert resumed(rejecting(2), REFUSED) == [1, 2]
    assert resumed(rejecting(1), REFUSED) == [1, 2]
    assert resumed(REFUSED) == [1, 2]
    assert resumed(rejecting(1)) == [1], "the server has answered for everything"


@pytest.mark.parametrize("count", [0, 1])
def test_rejected_lines_can_be_written_to_a_pipe_or_a_device(vsync: Vsync, peer: Peer, count: int) -> None:
    peer.will(*[[OPENED, rejecting(count)]] * 2)
    os.mkfifo("pipe")
    with ThreadPoolExecutor() as threads:
        read = threads.submit(Path("pipe").read_text)
        assert vsync("import", "-", "--rejected", "pipe", "--target", peer.target, given=TWO_LINES).code == count
        assert read.result().count("\n") == count
    assert Path("pipe").is_fifo()
    Path("link").symlink_to(os.devnull)
    assert vsync("import", "-", "--rejected", "link", "--target", peer.target, given=TWO_LINES).code == count
    assert Path("link").is_symlink()
    assert Path("link").is_char_device()


def test_a_resumed_import_reports_that_it_was_resumed(vsync: Vsync, peer: Peer) -> None:
    lost = [cid_pb2.ImportCidsResponse(number=3), Broken(grpc.StatusCode.UNAVAILABLE)]
    peer.will(lost, [cid_pb2.ImportCidsResponse(number=3), cid_pb2.ImportCidsResponse(number=1, skipped=1)])
    ran = vsync("import", "-", "--target", peer.target, given=b'{"cid": "a"}')
    assert ran.code == 0
    assert "resumed an import with 3 committed chunks" in ran.out
    assert "lost its connection once, and resumed" in ran.out


def test_a_damaged_file_fails_the_import(vsync: Vsync, peer: Peer) -> None:
    Path("r.ndjson.gz").write_bytes(gzip.compress(b'{"cid": "a"}')[:-9])
    peer.will([cid_pb2.ImportCidsResponse()])
    ran = vsync("import", "r.ndjson.gz", "--target", peer.target)
    assert ran.code == 1
    assert ran.err.endswith("error: after line 0: the gzip data is damaged or truncated\n")


def test_protobufs_json_is_imported_and_unknown_fields_are_reported(vsync: Vsync, peer: Peer) -> None:
    (record,) = entries(1)
    record.id, record.revision = "i", 1
    printed = json_format.MessageToDict(record)
    lines = [printed, {"record": printed}, printed | {"acountNumber": "1", "secret value": 2}]
    peer.will([cid_pb2.ImportCidsResponse(), cid_pb2.ImportCidsResponse(number=1, inserted=2)])
    ran = vsync("import", "-", "--target", peer.target, given="\n".join(map(json.dumps, lines)).encode())
    assert ran.code == 1
    assert "line 3: acountNumber is not a field of a record; has a field whose name is not an identifier" in ran.err
    record.ClearField("id")
    record.ClearField("revision")
    assert list(peer.seen()[0].requests[1].chunk.records) == [record, record]
    (rejected,) = Path("import.rejected.ndjson").read_text().splitlines()
    entry = json.loads(rejected)
    corrected = json.dumps(entry | {"record": printed}).encode()
    peer.will([cid_pb2.ImportCidsResponse(), cid_pb2.ImportCidsResponse(number=1, inserted=1)])
    assert vsync("import", "-", "--target", peer.target, given=corrected).code == 0
