"""CID set files: valid lines are read, invalid ones counted and reported."""

import contextlib
import gzip
import os
import select
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import IO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vsync import cid_file
from vsync import input_file as input_module
from vsync.cid_file import CidFile
from vsync.errors import FileError
from vsync.input_file import InputFile

CIDS = [bytes([number]) * 32 for number in range(200, 210)]


def read(path: Path) -> tuple[list[bytes], CidFile]:
    """The CIDs of a file."""
    with CidFile(str(path), allow_empty=True) as file:
        packed = b"".join(file)
    return [packed[at : at + 32] for at in range(0, len(packed), 32)], file


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("form", [str.lower, str.upper])
@pytest.mark.parametrize("last", [True, False])
def test_every_line_end_case_and_compression_is_read(tmp_path: Path, end: str, form: object, last: bool) -> None:
    assert callable(form)
    text = end.join(form(cid.hex()) for cid in CIDS) + (end if last else "")
    (tmp_path / "f").write_bytes(text.encode())
    (tmp_path / "f.gz").write_bytes(gzip.compress(text.encode()))
    (tmp_path / "f.cids").write_bytes(gzip.compress(text.encode()))
    for name in ("f", "f.gz", "f.cids"):
        cids, file = read(tmp_path / name)
        assert (cids, file.cids, file.lines, file.invalid) == (CIDS, 10, 10, 0)


GARBAGE = ["", " ", "x" * 64, "a" * 63, "a" * 65, "é" * 32, "+" + "0" * 63, "a" * 31 + " " * 2 + "a" * 31, "cid"]
LINES = st.lists(st.sampled_from([*(cid.hex() for cid in CIDS), *GARBAGE]), max_size=30)


@given(lines=LINES, size=st.integers(140, 400))
def test_invalid_lines_are_counted_whatever_the_block_size(lines: list[str], size: int) -> None:
    with pytest.MonkeyPatch.context() as patch, tempfile.NamedTemporaryFile() as written:
        patch.setattr(cid_file, "BLOCK_BYTES", size)
        written.write("".join(f"{line}\n" for line in lines).encode())
        written.flush()
        with CidFile(written.name, allow_empty=True) as file, contextlib.suppress(FileError):
            packed = b""
            packed = b"".join(file)
    known = {cid.hex() for cid in CIDS}
    assert packed == b"".join(bytes.fromhex(line) for line in lines if line in known)
    bad = [number for number, line in enumerate(lines, 1) if line.strip() and line not in known]
    assert file.lines == len(lines)
    assert (file.invalid, file.invalid_lines) == (len(bad), bad[: cid_file.MAX_INVALID_LINES])
    assert file.blank == sum(not line.strip() for line in lines)


def test_a_byte_order_mark_is_ignored(tmp_path: Path) -> None:
    for name, text in (("f", b"\xef\xbb\xbf" + CIDS[0].hex().encode()), ("g", b"\xef\xbb\xbf"), ("h", b"\n")):
        (tmp_path / name).write_bytes(text)
    assert [(file.cids, file.invalid, file.blank) for file in (read(tmp_path / name)[1] for name in "fgh")] == [
        (1, 0, 0),
        (0, 0, 0),
        (0, 0, 1),
    ]


def test_a_very_long_line_does_not_fill_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cid_file, "BLOCK_BYTES", 100)
    (tmp_path / "f").write_bytes(b"a" * 10_000 + b"\n" + CIDS[0].hex().encode())
    cids, file = read(tmp_path / "f")
    assert (cids, file.invalid_lines) == ([CIDS[0]], [1])


def test_a_damaged_file_is_an_error(tmp_path: Path) -> None:
    whole = gzip.compress(b"".join(cid.hex().encode() + b"\n" for cid in CIDS))
    for name in ("f.gz", "f"):
        for content in (whole[:-9], whole[:15], whole + b"x", whole[:-8] + bytes(8)):
            (tmp_path / name).write_bytes(content)
            with pytest.raises(FileError, match="damaged or truncated"):
                read(tmp_path / name)
    (tmp_path / "f.gz").write_bytes(b"")
    with pytest.raises(FileError, match="damaged or truncated"):
        read(tmp_path / "f.gz")
    with pytest.raises(OSError, match="No such file"):
        CidFile(str(tmp_path / "nothing"))


def test_gzip_data_may_have_several_members_and_zeros_at_its_end(tmp_path: Path) -> None:
    parts = [gzip.compress(cid.hex().encode() + b"\n") for cid in CIDS]
    (tmp_path / "f").write_bytes(b"".join(parts) + bytes(1000))
    assert read(tmp_path / "f")[0] == CIDS


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "the file has no CIDs"),
        (b" \n\n", "the file has no CIDs"),
        (b"PK\x03\x04" + bytes(9), "the file is a ZIP archive"),
        (gzip.compress(gzip.compress(b"", mtime=0), mtime=0), "gzip data inside gzip data"),
        (CIDS[0].hex().encode("utf-16"), "the file is UTF-16 text"),
        (CIDS[0].hex().encode("utf-32"), "the file is UTF-32 text"),
        (CIDS[0].hex().encode("utf-16-be"), "the file is UTF-16 text or binary data"),
        (b"cid\n" + b'"' + CIDS[0].hex().encode() + b'"\n', "found 3 characters in line 1 of 2"),
        (b'"' + CIDS[0].hex().encode() + b'"\n', "found text in quotes in line 1"),
        (CIDS[0].hex().encode() + b"\t1\n", "found several columns in line 1"),
        ("é".encode("cp1252") * 64, "found binary data or non-ASCII text in line 1"),
        (b"x" * 64, "found characters that are not hexadecimal digits in line 1"),
        (b"0" * 100_000, "found more than 1,000 characters in line 1"),
    ],
)
def test_a_file_without_a_cid_is_described_in_the_error(tmp_path: Path, content: bytes, found: str) -> None:
    (tmp_path / "f").write_bytes(content)
    with CidFile(str(tmp_path / "f")) as file, pytest.raises(FileError, match=found):
        list(file)


@given(
    lines=st.lists(st.tuples(st.sampled_from(["a", "bc", "", "d" * 20]), st.sampled_from(["\n", "\r\n", "\r"]))),
    size=st.integers(1, 12),
    packed=st.booleans(),
)
def test_lines_do_not_depend_on_the_block_size(lines: list[tuple[str, str]], size: int, packed: bool) -> None:
    # An empty line that ends with LF cannot follow one that ends with CR: together that is CRLF.
    text = "".join(line + end for line, end in lines).encode()
    with tempfile.NamedTemporaryFile() as written:
        written.write(gzip.compress(text) if packed else text)
        written.flush()
        with InputFile(written.name) as file:
            found = b"".join(file.blocks(size, 1_000))
            assert file.lines == len(found.splitlines())
    assert found.decode().split("\n")[:-1] == text.decode().splitlines()


def test_a_pipe_is_recognised_from_its_first_bytes_and_read_as_it_arrives() -> None:
    reading, writing = os.pipe()
    packed = gzip.compress(CIDS[0].hex().encode() + b"\n")
    with CidFile(f"/dev/fd/{reading}") as file:
        for byte in packed:
            os.write(writing, bytes([byte]))
        assert next(iter(file)) == CIDS[0]
        os.close(writing)
    os.close(reading)


def test_a_non_blocking_pipe_without_data_is_not_at_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    content = [CIDS[0].hex().encode() + b"\n", b""]

    def waited(readers: list[IO[bytes]], writers: list[IO[bytes]], others: list[IO[bytes]]) -> None:
        """Sends the rest when the reader waits for it."""
        if data := content.pop(0):
            os.write(writing, data)
        else:
            os.close(writing)
        select.select(readers, writers, others)

    monkeypatch.setattr(input_module, "select", SimpleNamespace(select=waited))
    with os.fdopen(reading) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        with CidFile("-") as file:
            assert b"".join(file) == CIDS[0]
    assert not content
