"""Record files: what is written is read again, and what is wrong is named by line and field, without its value."""

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from vsync import FileError, Violation
from vsync.files import Bad, FileForm, Good, RecordReader, RecordWriter, form_of
from vsync.records import ACCOUNT_TYPES, FIELDS, INPUT_FIELDS, KEY_TYPES, RecordError, fields_of, record_of
from vsync.sample import entries
from vsync.v1 import cid_pb2
from vsync.wholefile import whole_file

NAMES = ("r.ndjson", "r.jsonl", "r.csv", "r.ndjson.gz", "r.csv.gz")

# Whatever the server will say to it: commas, quotes and NULs go through a file as they are.
text = st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), max_size=20)
records = st.builds(
    cid_pb2.CidRecord,
    cid=text,
    key_type=st.sampled_from(sorted(set(KEY_TYPES.numbers.values()))),
    key_value=text,
    ispb=text,
    branch=st.none() | text.filter(bool),
    account_number=text,
    account_type=st.sampled_from(sorted(set(ACCOUNT_TYPES.numbers.values()))),
    tax_id=text,
    dict_request_id=st.none() | text.filter(bool),
)
once_per_example = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)


def write(path: Path, content: list[cid_pb2.CidRecord]) -> None:
    form = form_of(str(path))
    with whole_file(str(path), gzipped=form.gzipped) as stream:
        RecordWriter(stream, form).write(content)


def read(path: Path) -> list[Good | Bad]:
    with RecordReader(str(path)) as reader:
        return list(reader)


@pytest.mark.parametrize("name", NAMES)
@given(content=st.lists(records, max_size=5))
@once_per_example
def test_what_is_written_is_read_again(tmp_path: Path, name: str, content: list[cid_pb2.CidRecord]) -> None:
    write(tmp_path / name, content)
    again = [entry.record for entry in read(tmp_path / name) if isinstance(entry, Good)]
    assert again == content


@pytest.mark.parametrize("name", NAMES)
def test_lines_are_counted_as_an_editor_does(tmp_path: Path, name: str) -> None:
    write(tmp_path / name, list(entries(3)))
    first = 2 if ".csv" in name else 1
    assert [entry.line for entry in read(tmp_path / name)] == [first, first + 1, first + 2]


def test_a_line_end_in_a_value_ends_no_line_of_a_csv(tmp_path: Path) -> None:
    record = cid_pb2.CidRecord(cid="c", last_error="the directory said:\r\nno\nand\rno")
    write(tmp_path / "r.csv", [record, record])
    assert (tmp_path / "r.csv").read_text().count("the directory said: no and no") == 2
    assert [entry.line for entry in read(tmp_path / "r.csv")] == [2, 3]


HEADER = "cid,key_type,key_value,ispb"
pieces = st.sampled_from(['"', '""', ",", "c,CPF,k,i", '"c","CPF","k","i"', " ", "x", "\xe9", "\\", "'"])
csv_lines = st.lists(pieces, max_size=6).map("".join) | st.just("c,CPF,k,i")


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@given(lines=st.lists(csv_lines, max_size=30))
@once_per_example
def test_each_line_of_a_csv_is_a_record_or_rejected_whatever_the_quotes_around_it(
    tmp_path: Path, end: str, lines: list[str]
) -> None:
    (tmp_path / "r.csv").write_text(end.join([HEADER, *lines]) + end, newline="")
    found = read(tmp_path / "r.csv")
    there = {number: line for number, line in enumerate(lines, 2) if line.strip()}
    assert [entry.line for entry in found] == list(there)
    for entry in found:
        if isinstance(entry, Bad):
            assert entry.text == there[entry.line]
    good = {entry.line for entry in found if isinstance(entry, Good)}
    assert {number for number, line in there.items() if line == "c,CPF,k,i"} <= good


def test_one_quote_too_many_costs_one_line(tmp_path: Path) -> None:
    lines = ["c,CPF,k,i"] * 3000
    lines[1000] = 'c,CPF,"k,i'
    lines[2000] = 'c,CPF,k",i'
    (tmp_path / "r.csv").write_text("\n".join([HEADER, *lines]))
    found = read(tmp_path / "r.csv")
    assert len(found) == 3000
    (bad,) = [entry for entry in found if isinstance(entry, Bad)]
    assert (bad.line, bad.text) == (1002, 'c,CPF,"k,i')


def test_a_line_of_a_rejects_file_is_the_record_in_it(tmp_path: Path) -> None:
    reasons = {"line": 7, "reason": "INVALID_FIELD", "violations": [{"field": "ispb", "takes": "8 digits"}]}
    lines = [reasons | {"record": {"cid": "c", "key_type": "CPF"}}, reasons | {"text": "c,IBAN,k,i"}]
    (tmp_path / "r.ndjson").write_text("\n".join(map(json.dumps, lines)))
    good, bad = read(tmp_path / "r.ndjson")
    assert isinstance(good, Good)
    assert good.record == cid_pb2.CidRecord(cid="c", key_type=cid_pb2.KEY_TYPE_CPF)
    assert isinstance(bad, Bad)
    assert bad.violations[0].field == "record"


def test_the_file_form_has_the_protos_names_and_short_enums() -> None:
    record = cid_pb2.CidRecord(
        id="i",
        cid="c",
        key_type=cid_pb2.KEY_TYPE_EVP,
        account_type=cid_pb2.ACCOUNT_TYPE_SLRY,
        sync_status=cid_pb2.SYNC_STATUS_FAILED,
        last_error="because",
        revision=3,
    )
    record.created_at.FromJsonString("2026-11-20T10:00:00.123Z")
    assert fields_of(record) == {
        "id": "i",
        "cid": "c",
        "key_type": "EVP",
        "account_type": "SLRY",
        "sync_status": "FAILED",
        "created_at": "2026-11-20T10:00:00.123Z",
        "last_error": "because",
        "revision": 3,
    }
    assert set(FIELDS) == {field.name for field in cid_pb2.CidRecord.DESCRIPTOR.fields}


def test_an_enum_value_of_a_newer_server_is_its_number() -> None:
    record = cid_pb2.CidRecord()
    record.MergeFromString(bytes([3 << 3, 9]))
    assert fields_of(record) == {"key_type": "9"}


def test_full_enum_names_and_the_services_own_fields_are_read() -> None:
    fields = {"cid": "c", "key_type": "KEY_TYPE_CPF", "account_type": "CACC", "branch": None, "revision": 4, "id": "x"}
    assert record_of(fields) == cid_pb2.CidRecord(
        cid="c", key_type=cid_pb2.KEY_TYPE_CPF, account_type=cid_pb2.ACCOUNT_TYPE_CACC
    )


@pytest.mark.parametrize(
    ("fields", "violations"),
    [
        ({"ispb": 12345678}, [("ispb", "must be text in quotes")]),
        ({"key_type": "IBAN"}, [("key_type", "must be one of CPF, CNPJ, PHONE, EMAIL, EVP")]),
        ({"account_type": ""}, [("account_type", "must be one of CACC, SVGS, TRAN, SLRY")]),
        ({"acount_number": "1"}, [("", "has a field that records do not have")]),
        ({"cid": "\udc80", "ispb": "1"}, [("cid", "must be UTF-8 text")]),
        ({"cid": [], "ispb": {}}, [("cid", "must be text in quotes"), ("ispb", "must be text in quotes")]),
    ],
)
def test_a_bad_field_is_named(fields: dict[str, object], violations: list[tuple[str, str]]) -> None:
    with pytest.raises(RecordError) as caught:
        record_of(fields)
    assert list(caught.value.violations) == violations


def test_a_record_error_is_one_line() -> None:
    error = RecordError(Violation("cid", "takes text"), Violation("", "is odd"))
    assert str(error) == "cid: takes text; is odd"


def test_ndjson_lines_that_are_no_records_are_named_and_the_rest_is_read(tmp_path: Path) -> None:
    good = json.dumps({"cid": "c"}).encode()
    deep = b"[" * 200_000
    lines = [b"\xef\xbb\xbf" + good, b"", b"{", b"[]", b"\xff", b"   ", good, b'{"cid": 5}', deep, good]
    (tmp_path / "r.ndjson").write_bytes(b"\n".join(lines))
    found = read(tmp_path / "r.ndjson")
    assert [entry.line for entry in found if isinstance(entry, Good)] == [1, 7, 10]
    bad = [(entry.line, entry.violations[0]) for entry in found if isinstance(entry, Bad)]
    assert bad == [
        (3, ("", "is no well-formed JSON")),
        (4, ("", "must be a JSON object")),
        (5, ("", "is not UTF-8")),
        (8, ("cid", "must be text in quotes")),
        (9, ("", "is no well-formed JSON")),
    ]


def test_csv_lines_that_are_no_records_are_named_and_the_rest_is_read(tmp_path: Path) -> None:
    lines = [
        b"\xef\xbb\xbfcid,key_type,key_value,ispb",
        b"c,CPF,k,i",
        b"c,CPF",
        b"c,IBAN,k,i",
        b"",
        b'"c"c,CPF,k,i',
        b"c,CPF,\xff,i",
        b"c,CPF,k,i",
    ]
    (tmp_path / "r.csv").write_bytes(b"\r\n".join(lines))
    found = read(tmp_path / "r.csv")
    assert [entry.line for entry in found if isinstance(entry, Good)] == [2, 8]
    assert [(entry.line, entry.violations[0][0]) for entry in found if isinstance(entry, Bad)] == [
        (3, ""),
        (4, "key_type"),
        (6, ""),
        (7, "key_value"),
    ]


@pytest.mark.parametrize("header", ["", "cid,key_type,ispb", "cid,cid,key_type,key_value,ispb", "a,b", '"a"b,c'])
def test_a_wrong_csv_header_fails_the_file(tmp_path: Path, header: str) -> None:
    (tmp_path / "r.csv").write_text(header + "\n")
    with pytest.raises(FileError, match="line 1"):
        read(tmp_path / "r.csv")


def test_a_gzip_file_that_is_cut_off_fails_behind_what_was_read(tmp_path: Path) -> None:
    path = tmp_path / "r.ndjson.gz"
    write(path, list(entries(5000)))
    path.write_bytes(path.read_bytes()[:-1000])
    with RecordReader(str(path)) as reader, pytest.raises(FileError, match=r"behind line \d+: the gzip data"):
        list(reader)
    for damaged in (b"", b"no gzip"):
        path.write_bytes(damaged)
        with pytest.raises(FileError, match="damaged or cut off"):
            read(path)


def test_the_position_ends_at_the_size(tmp_path: Path) -> None:
    for name in NAMES:
        write(tmp_path / name, list(entries(100)))
        with RecordReader(str(tmp_path / name)) as reader:
            assert reader.position == 0
            list(reader)
            assert reader.position == reader.size


@pytest.mark.parametrize("name", ["r", "r.json", "r.txt.gz", "r.gz"])
def test_a_name_that_does_not_tell_the_form(name: str) -> None:
    with pytest.raises(FileError, match="ends in"):
        form_of(name)


def test_standard_input_and_output_are_ndjson() -> None:
    assert form_of("-") == FileForm(csv=False, gzipped=False)


def test_csv_columns_may_be_chosen(tmp_path: Path) -> None:
    with whole_file(str(tmp_path / "r.csv"), gzipped=False) as stream:
        RecordWriter(stream, FileForm(csv=True, gzipped=False), INPUT_FIELDS).write(entries(1))
    assert (tmp_path / "r.csv").read_text().splitlines()[0] == ",".join(INPUT_FIELDS)


def test_equal_content_makes_equal_gzip_files(tmp_path: Path) -> None:
    for name in ("a.ndjson.gz", "b.ndjson.gz"):
        write(tmp_path / name, list(entries(10)))
    assert (tmp_path / "a.ndjson.gz").read_bytes() == (tmp_path / "b.ndjson.gz").read_bytes()
    assert len(gzip.decompress((tmp_path / "a.ndjson.gz").read_bytes()).splitlines()) == 10
