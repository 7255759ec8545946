"""Parquet files and record batches: codes stay text, and every field survives."""

import io
import sys
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import vsync
from vsync.arrow import SCHEMA, Batcher, record_batch
from vsync.atomic_files import atomic_files
from vsync.record_files import InvalidLine, ValidLine, file_format
from vsync.record_formats import open_records, record_writer
from vsync.sample import entries
from vsync.v1 import cid_pb2

from tests.harness.vsync_command import NOWHERE, vsync_command


def write(path: Path, records: list[cid_pb2.CidRecord]) -> None:
    form = file_format(path.name)
    with atomic_files([str(path)]) as (stream,), record_writer(stream, form) as writer:
        writer.write(records)


def test_a_parquet_file_returns_the_records_that_were_written(tmp_path: Path) -> None:
    path, records = tmp_path / "r.parquet", list(entries(20))
    write(path, records)
    with open_records(str(path)) as reader:
        assert list(reader) == [ValidLine(number, record) for number, record in enumerate(records, 1)]
        assert reader.position == reader.size


def test_codes_are_text_and_times_are_utc() -> None:
    record = next(entries(1))
    record.ispb, record.branch, record.account_number = "00000001", "0001", "0000123"
    record.revision, record.sync_status = 3, cid_pb2.SYNC_STATUS_SYNCED
    record.created_at.FromJsonString("2026-11-20T16:58:54.643Z")
    (row,) = record_batch([record]).to_pylist()
    assert (row["ispb"], row["branch"], row["account_number"]) == ("00000001", "0001", "0000123")
    assert (row["sync_status"], row["revision"], row["synced_at"]) == ("SYNCED", 3, None)
    assert row["created_at"].isoformat() == "2026-11-20T16:58:54.643000+00:00"
    kinds = {str(field.type) for field in SCHEMA}
    assert kinds == {"string", "int64", "timestamp[us, tz=UTC]"}


def test_batches_are_bounded() -> None:
    batcher, records = Batcher(3), entries(7)
    sizes = [batch.num_rows for _ in range(4) for batch in batcher.add(islice(records, 2))]
    assert [*sizes, *(batch.num_rows for batch in batcher.rest())] == [3, 3, 1]
    with pytest.raises(ValueError, match="max_rows"):
        Batcher(0)


@pytest.mark.parametrize("kind", [pa.int64(), pa.float64()])
def test_codes_that_are_numbers_are_an_error(tmp_path: Path, kind: pa.DataType) -> None:
    table = pa.table({"cid": ["c"], "key_type": ["CPF"], "key_value": ["1"], "ispb": pa.array([1]).cast(kind)})
    pq.write_table(table, tmp_path / "r.parquet")
    with pytest.raises(vsync.FileError, match=r"column ispb .* must be string; numbers lose leading zeros"):
        open_records(str(tmp_path / "r.parquet"))


def test_other_columns_and_other_files_are_an_error(tmp_path: Path) -> None:
    pq.write_table(pa.table({"cid": ["c"], "secret": ["1"]}), tmp_path / "r.parquet")
    with pytest.raises(vsync.FileError, match="missing: key_type, key_value, ispb; 1 unknown") as raised:
        open_records(str(tmp_path / "r.parquet"))
    assert "secret" not in str(raised.value)
    (tmp_path / "text.parquet").write_text("cid,key_type\n")
    with pytest.raises(vsync.FileError, match="not a Parquet file"):
        open_records(str(tmp_path / "text.parquet"))
    with pytest.raises(vsync.FileError, match="must end in"):
        file_format("r.parquet.gz")


def test_a_file_of_pandas_is_read(tmp_path: Path) -> None:
    record = next(entries(1))
    table = pa.table(
        {
            "cid": pa.array([record.cid, "c"], pa.large_string()),
            "keyType": pa.array(["PHONE", "other"]).dictionary_encode(),
            "keyValue": ["+5511987654321", "k"],
            "ispb": ["00000001", "1"],
            "__index_level_0__": [0, 1],
        }
    )
    pq.write_table(table, tmp_path / "r.parquet")
    with open_records(str(tmp_path / "r.parquet")) as reader:
        first, second = reader
    assert isinstance(first, ValidLine)
    assert (first.record.key_type, first.record.ispb) == (cid_pb2.KEY_TYPE_PHONE, "00000001")
    assert isinstance(second, InvalidLine)
    assert [bad.field for bad in second.violations] == ["key_type"]


def test_parquet_goes_through_pipes(monkeypatch: pytest.MonkeyPatch) -> None:
    target, records = io.BytesIO(), list(entries(3))
    with record_writer(target, file_format("-", "parquet")) as writer:
        writer.write(records)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(target.getvalue())))
    with open_records("-", "parquet") as reader:
        assert [entry.record for entry in reader if isinstance(entry, ValidLine)] == records
        assert (reader.size, reader.position) == (None, 0)


def test_a_failed_export_writes_nothing_more() -> None:
    target = io.BytesIO()

    def fail() -> None:
        with record_writer(target, file_format("r.parquet")) as writer:
            writer.write(entries(3))
            raise OSError

    with pytest.raises(OSError):  # noqa: PT011 - raised above
        fail()
    # The beginning of a Parquet file.
    assert target.getvalue() == b"PAR1"


def test_a_missing_pyarrow_is_reported_with_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in sys.modules if name in {"vsync.arrow", "vsync.parquet_files"}]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "r.parquet").touch()
    run = vsync_command(monkeypatch, tmp_path)
    for arguments in (
        ("sample", "--out", "s.parquet"),
        ("import", "r.parquet", "--target", NOWHERE),
        ("export", "e.parquet", "--target", NOWHERE, "--reconnect-timeout", "0"),
    ):
        ran = run(*arguments)
        assert (ran.code, ran.err) == (1, "error: Parquet and Arrow need pyarrow: pip install 'vsyncd[arrow]'\n")
    with vsync.connect_sync(NOWHERE) as client, pytest.raises(vsync.MissingExtraError, match=r"vsyncd\[arrow\]"):
        client.to_arrow(cid_pb2.ExportCidsRequest())
    assert [path.name for path in tmp_path.iterdir()] == ["r.parquet"]


def test_cids_and_another_format_contradict_each_other(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ran = vsync_command(monkeypatch, tmp_path)("export", "x", "--cids", "--format", "csv", "--target", NOWHERE)
    assert ran.code == 2
    assert "contradict" in ran.err
