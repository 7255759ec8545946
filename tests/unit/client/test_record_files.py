"""Record files can be read after writing, and errors contain the line and the field, but not the value."""

import codecs
import gzip
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from google.protobuf import json_format
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from vsync import FieldViolation, FileError, record_files
from vsync.atomic_files import atomic_files
from vsync.record_files import FileFormat, InvalidLine, RecordReader, RecordWriter, ValidLine, file_format
from vsync.records import ACCOUNT_TYPES, FIELDS, INPUT_FIELDS, KEY_TYPES, NOT_UTF8, RecordError, fields_of, record_of
from vsync.sample import entries
from vsync.v1 import cid_pb2

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
    form = file_format(str(path))
    with atomic_files([str(path)], gzipped=form.gzipped) as (stream,):
        RecordWriter(stream, form).write(content)


def read(path: Path) -> list[ValidLine | InvalidLine]:
    with RecordReader(str(path)) as reader:
        return list(reader)


@pytest.mark.parametrize("name", NAMES)
@given(content=st.lists(records, max_size=5))
@once_per_example
def test_written_records_can_be_read(tmp_path: Path, name: str, content: list[cid_pb2.CidRecord]) -> None:
    write(tmp_path / name, content)
    again = [entry.record for entry in read(tmp_path / name) if isinstance(entry, ValidLine)]
    assert again == content


@pytest.mark.parametrize("name", NAMES)
def test_lines_are_counted_from_1(tmp_path: Path, name: str) -> None:
    write(tmp_path / name, list(entries(3)))
    first = 2 if ".csv" in name else 1
    assert [entry.line for entry in read(tmp_path / name)] == [first, first + 1, first + 2]


def test_a_line_end_in_a_value_does_not_end_a_csv_line(tmp_path: Path) -> None:
    record = cid_pb2.CidRecord(cid="c", last_error="the directory said:\r\nno\nand\rno")
    write(tmp_path / "r.csv", [record, record])
    assert (tmp_path / "r.csv").read_text().count("the directory said: no and no") == 2
    assert [entry.line for entry in read(tmp_path / "r.csv")] == [2, 3]


HEADER = "cid,key_type,key_value,ispb"
pieces = st.sampled_from(['"', '""', ",", "c,CPF,k,i", '"c","CPF","k","i"', " ", "x", "\xe9", "\\", "'"])
EMPTY_ROW = re.compile(r'(?: *|" *")(?:,(?: *|" *"))*').fullmatch
csv_lines = st.lists(pieces, max_size=6).map("".join) | st.just("c,CPF,k,i")


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@given(lines=st.lists(csv_lines, max_size=30))
@once_per_example
def test_quotes_in_a_csv_line_do_not_affect_other_lines(tmp_path: Path, end: str, lines: list[str]) -> None:
    (tmp_path / "r.csv").write_text(end.join([HEADER, *lines]) + end, newline="")
    found = read(tmp_path / "r.csv")
    there = {number: line for number, line in enumerate(lines, 2) if not EMPTY_ROW(line)}
    assert [entry.line for entry in found] == list(there)
    for entry in found:
        if isinstance(entry, InvalidLine):
            assert entry.text == there[entry.line]
    good = {entry.line for entry in found if isinstance(entry, ValidLine)}
    assert {number for number, line in there.items() if line == "c,CPF,k,i"} <= good


def test_an_unbalanced_quote_makes_one_line_invalid(tmp_path: Path) -> None:
    lines = ["c,CPF,k,i"] * 3000
    lines[1000] = 'c,CPF,"k,i'
    lines[2000] = 'c,CPF,k",i'
    (tmp_path / "r.csv").write_text("\n".join([HEADER, *lines]))
    found = read(tmp_path / "r.csv")
    assert len(found) == 3000
    (bad,) = [entry for entry in found if isinstance(entry, InvalidLine)]
    assert (bad.line, bad.text) == (1002, 'c,CPF,"k,i')


def test_a_corrected_line_of_a_rejects_file_is_read_as_its_record(tmp_path: Path) -> None:
    reasons = {"line": 7, "reason": "INVALID_FIELD", "violations": [{"field": "ispb", "takes": "8 digits"}]}
    lines = [reasons | {"record": {"cid": "c", "key_type": "CPF"}}, reasons | {"text": "c,IBAN,k,i"}]
    (tmp_path / "r.ndjson").write_text("\n".join(map(json.dumps, lines)))
    good, bad = read(tmp_path / "r.ndjson")
    assert isinstance(good, ValidLine)
    assert good.record == cid_pb2.CidRecord(cid="c", key_type=cid_pb2.KEY_TYPE_CPF)
    assert isinstance(bad, InvalidLine)
    assert bad.violations[0].field == "record"


def test_files_have_the_protos_names_and_short_enums() -> None:
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


def test_full_enum_names_are_accepted_and_output_fields_ignored() -> None:
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
        ({"acount_number": "1"}, [("acount_number", "is not a field of a record")]),
        ({"cid": "\udc80", "ispb": "1"}, [("cid", NOT_UTF8)]),
        ({"key_type": True}, [("key_type", "must be one of CPF, CNPJ, PHONE, EMAIL, EVP")]),
        ({"keyType": 0}, [("key_type", "must be one of CPF, CNPJ, PHONE, EMAIL, EVP")]),
        ({"keyType": 9}, [("key_type", "must be one of CPF, CNPJ, PHONE, EMAIL, EVP")]),
        ({"keyType": []}, [("key_type", "must be one of CPF, CNPJ, PHONE, EMAIL, EVP")]),
        (
            {"taxId": 1, "saldo": 1, "acountNumber": 2},
            [
                ("tax_id", "must be text in quotes"),
                ("saldo", "is not a field of a record"),
                ("acountNumber", "is not a field of a record"),
            ],
        ),
        ({"keyValue": "a", "key_value": "b"}, [("key_value", "must not be given under both of its names")]),
        ({"+5511987654321": "a"}, [("", "has a field whose name is not an identifier")]),
        ({"cid": [], "ispb": {}}, [("cid", "must be text in quotes"), ("ispb", "must be text in quotes")]),
    ],
)
def test_an_invalid_field_is_named(fields: dict[str, object], violations: list[tuple[str, str]]) -> None:
    with pytest.raises(RecordError) as caught:
        record_of(fields)
    assert list(caught.value.violations) == violations


def test_a_record_error_is_one_line() -> None:
    error = RecordError(FieldViolation("cid", "takes text"), FieldViolation("", "is odd"))
    assert str(error) == "cid: takes text; is odd"


def test_invalid_ndjson_lines_are_reported_and_the_others_read(tmp_path: Path) -> None:
    good = json.dumps({"cid": "c"}).encode()
    deep = b"[" * 200_000
    lines = [b"\xef\xbb\xbf" + good, b"", b"{", b"[]", b"\xff", b"   ", good, b'{"cid": 5}', deep, good]
    (tmp_path / "r.ndjson").write_bytes(b"\n".join(lines))
    found = read(tmp_path / "r.ndjson")
    assert [entry.line for entry in found if isinstance(entry, ValidLine)] == [1, 7, 10]
    bad = [(entry.line, entry.violations[0]) for entry in found if isinstance(entry, InvalidLine)]
    assert bad == [
        (3, ("", "is not well-formed JSON")),
        (4, ("", "must be a JSON object")),
        (5, ("", NOT_UTF8)),
        (8, ("cid", "must be text in quotes")),
        (9, ("", "is not well-formed JSON")),
    ]


def test_invalid_csv_lines_are_reported_and_the_others_read(tmp_path: Path) -> None:
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
    assert [entry.line for entry in found if isinstance(entry, ValidLine)] == [2, 8]
    assert [(entry.line, entry.violations[0][0]) for entry in found if isinstance(entry, InvalidLine)] == [
        (3, ""),
        (4, "key_type"),
        (6, ""),
        (7, "key_value"),
    ]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("case", [str.lower, str.upper, str.title])
@pytest.mark.parametrize("start", [b"", codecs.BOM_UTF8])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_csv_files_of_spreadsheets_are_read(
    tmp_path: Path, delimiter: str, case: Callable[[str], str], start: bytes, end: str
) -> None:
    content = list(entries(3))
    empty = delimiter * len(INPUT_FIELDS)
    rows = [[str(fields_of(record).get(name, "")) for name in INPUT_FIELDS] for record in content]
    lines = ["", empty, delimiter.join(map(case, INPUT_FIELDS)) + delimiter]
    lines += [delimiter.join(rows[0]), empty, *(delimiter.join(row) + delimiter for row in rows[1:]), empty, empty, ""]
    (tmp_path / "r.csv").write_bytes(start + end.join(lines).encode())
    assert read(tmp_path / "r.csv") == [
        ValidLine(line, record) for line, record in zip((4, 6, 7), content, strict=True)
    ]


def test_a_csv_header_may_have_the_names_of_protobufs_json(tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_text('"CID"; keyType ;keyvalue;Ispb\nc;KEY_TYPE_CPF;"k;""";i\n')
    record = cid_pb2.CidRecord(cid="c", key_type=cid_pb2.KEY_TYPE_CPF, key_value='k;"', ispb="i")
    assert read(tmp_path / "r.csv") == [ValidLine(2, record)]


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "the file has no header"),
        (b"\r\n;;;\r\n", "the file has no header"),
        (b"cid|key_type|key_value|ispb", "found no comma, semicolon or tab; missing: cid, key_type, key_value, ispb"),
        (b"cid;key_type;ispb", "found 3 columns separated by semicolon; missing: key_value"),
        (b"cid,keyType,key_value,ispb,key_type", "duplicate: key_type"),
        (b"cid,key_type,key_value,ispb,Saldo", "unknown: saldo"),
        (b"cid\tkey_type\tkey_value\tispb\t\xe1", "not UTF-8 text, but probably Windows-1252"),
        ("cid;key_type;key_value;ispb".encode("utf-16"), "the file is UTF-16 text; expected UTF-8 text"),
        (b"PK\x03\x04" + bytes(30), "the file is a ZIP archive or an Excel workbook"),
    ],
)
def test_an_unknown_csv_format_is_described_in_the_error(tmp_path: Path, content: bytes, found: str) -> None:
    (tmp_path / "r.csv").write_bytes(content)
    with pytest.raises(FileError, match=found):
        read(tmp_path / "r.csv")


def test_a_record_in_place_of_the_header_is_not_disclosed(tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_text(f"{'ab' * 32};EMAIL;maria@example.com;12345678;12ABC34501DE35\n")
    with pytest.raises(FileError) as caught:
        read(tmp_path / "r.csv")
    assert "5 columns separated by semicolon" in str(caught.value)
    assert not re.search("(?i)abab|maria|12345678|12ABC", str(caught.value))


def test_windows_1252_in_a_value_is_reported(tmp_path: Path) -> None:
    row = "cid;key_type;key_value;ispb\nc;EMAIL;joão@example.com;i\n"
    (tmp_path / "r.csv").write_bytes(row.encode("cp1252"))
    (bad,) = read(tmp_path / "r.csv")
    assert isinstance(bad, InvalidLine)
    assert bad.violations == (FieldViolation("key_value", NOT_UTF8),)


@pytest.mark.parametrize("enums_as_ints", [False, True])
@pytest.mark.parametrize("own_names", [False, True])
@given(record=records)
@once_per_example
def test_protobufs_json_is_read(record: cid_pb2.CidRecord, enums_as_ints: bool, own_names: bool) -> None:
    printed = json_format.MessageToDict(
        record, preserving_proto_field_name=own_names, use_integers_for_enums=enums_as_ints
    )
    given_by_the_service = {"revision": "9007199254740993", "createdAt": "2026-11-20T10:00:00Z", "syncStatus": 2}
    assert record_of(printed | given_by_the_service) == record


def test_only_the_line_that_is_too_long_is_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record_files, "MAX_LINE_BYTES", 100)
    long = json.dumps({"cid": "c" * 1000})
    (tmp_path / "r.ndjson").write_text(f'{{"cid": "a"}}\n{long}\n{{"cid": "b"}}\n')
    first, bad, last = read(tmp_path / "r.ndjson")
    assert isinstance(bad, InvalidLine)
    assert bad.violations == (FieldViolation("", "must have at most 100 bytes"),)
    assert [each.record.cid for each in (first, last) if isinstance(each, ValidLine)] == ["a", "b"]


@pytest.mark.parametrize("header", ["", "cid,key_type,ispb", "cid,cid,key_type,key_value,ispb", "a,b", '"a"b,c'])
def test_a_wrong_csv_header_fails_the_file(tmp_path: Path, header: str) -> None:
    (tmp_path / "r.csv").write_text(header + "\n")
    with pytest.raises(FileError, match="line 1"):
        read(tmp_path / "r.csv")


def test_a_truncated_gzip_file_fails_after_its_readable_lines(tmp_path: Path) -> None:
    path = tmp_path / "r.ndjson.gz"
    write(path, list(entries(5000)))
    path.write_bytes(path.read_bytes()[:-1000])
    with RecordReader(str(path)) as reader, pytest.raises(FileError, match=r"after line [\d,]+: the gzip data"):
        list(reader)
    for damaged in (b"", b"\x1f"):
        path.write_bytes(damaged)
        with pytest.raises(FileError, match="damaged or truncated"):
            read(path)
    path.write_bytes(b'{"cid": "a"}')
    assert read(path) == [ValidLine(1, cid_pb2.CidRecord(cid="a"))], "gzip is recognised by content"


def test_the_position_ends_at_the_size(tmp_path: Path) -> None:
    for name in NAMES:
        write(tmp_path / name, list(entries(100)))
        with RecordReader(str(tmp_path / name)) as reader:
            assert reader.position == 0
            list(reader)
            assert reader.position == reader.size


@pytest.mark.parametrize("name", ["r", "r.json", "r.txt.gz", "r.gz"])
def test_an_unknown_suffix_is_an_error(name: str) -> None:
    with pytest.raises(FileError, match="must end in"):
        file_format(name)


def test_standard_input_and_output_are_ndjson() -> None:
    assert file_format("-") == FileFormat("ndjson")


def test_csv_columns_can_be_selected(tmp_path: Path) -> None:
    with atomic_files([str(tmp_path / "r.csv")], gzipped=False) as (stream,):
        RecordWriter(stream, FileFormat("csv"), INPUT_FIELDS).write(entries(1))
    assert (tmp_path / "r.csv").read_text().splitlines()[0] == ",".join(INPUT_FIELDS)


def test_equal_content_makes_equal_gzip_files(tmp_path: Path) -> None:
    for name in ("a.ndjson.gz", "b.ndjson.gz"):
        write(tmp_path / name, list(entries(10)))
    assert (tmp_path / "a.ndjson.gz").read_bytes() == (tmp_path / "b.ndjson.gz").read_bytes()
    assert len(gzip.decompress((tmp_path / "a.ndjson.gz").read_bytes()).splitlines()) == 10
