"""The directory's file: what is a CID is read, what is none is counted and named."""

import gzip
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vsync import cidfile
from vsync.cidfile import CidFile
from vsync.errors import FileError

CIDS = [bytes([number]) * 32 for number in range(200, 210)]


def read(path: Path) -> tuple[list[bytes], CidFile]:
    """The CIDs of a file."""
    with CidFile(str(path)) as file:
        packed = b"".join(file)
    return [packed[at : at + 32] for at in range(0, len(packed), 32)], file


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("form", [str.lower, str.upper])
@pytest.mark.parametrize("last", [True, False])
def test_every_way_to_write_it(tmp_path: Path, end: str, form: object, last: bool) -> None:
    assert callable(form)
    text = end.join(form(cid.hex()) for cid in CIDS) + (end if last else "")
    (tmp_path / "f").write_bytes(text.encode())
    (tmp_path / "f.gz").write_bytes(gzip.compress(text.encode()))
    for name in ("f", "f.gz"):
        cids, file = read(tmp_path / name)
        assert (cids, file.cids, file.lines, file.bad) == (CIDS, 10, 10, 0)


GARBAGE = ["", " ", "x" * 64, "a" * 63, "a" * 65, "é" * 32, "+" + "0" * 63, "a" * 31 + " " * 2 + "a" * 31, "cid"]
LINES = st.lists(st.sampled_from([*(cid.hex() for cid in CIDS), *GARBAGE]), max_size=30)


@given(lines=LINES, size=st.integers(140, 400))
def test_what_is_no_cid_is_counted_and_named_wherever_the_file_is_cut(lines: list[str], size: int) -> None:
    with pytest.MonkeyPatch.context() as patch, tempfile.NamedTemporaryFile() as written:
        patch.setattr(cidfile, "READ", size)
        written.write("".join(f"{line}\n" for line in lines).encode())
        written.flush()
        with CidFile(written.name) as file:
            packed = b"".join(file)
    known = {cid.hex() for cid in CIDS}
    assert packed == b"".join(bytes.fromhex(line) for line in lines if line in known)
    # A line longer than is read at a time is one that is no CID.
    bad = [number for number, line in enumerate(lines, 1) if line.strip() and line not in known]
    assert file.lines == len(lines)
    assert (file.bad, file.bad_lines) == (len(bad), bad[: cidfile.NAMED])
    assert file.blank == sum(not line.strip() for line in lines)


def test_a_byte_order_mark_is_no_part_of_the_first_cid(tmp_path: Path) -> None:
    for name, text in (("f", b"\xef\xbb\xbf" + CIDS[0].hex().encode()), ("g", b"\xef\xbb\xbf"), ("h", b"\n")):
        (tmp_path / name).write_bytes(text)
    assert [(file.cids, file.bad, file.blank) for file in (read(tmp_path / name)[1] for name in "fgh")] == [
        (1, 0, 0),
        (0, 0, 0),
        (0, 0, 1),
    ]


def test_a_file_without_lines_needs_no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cidfile, "READ", 100)
    (tmp_path / "f").write_bytes(b"a" * 10_000 + b"\n" + CIDS[0].hex().encode())
    cids, file = read(tmp_path / "f")
    assert (cids, file.bad_lines) == ([CIDS[0]], [1])


def test_a_file_that_is_damaged_is_an_error(tmp_path: Path) -> None:
    whole = gzip.compress(b"".join(cid.hex().encode() + b"\n" for cid in CIDS))
    (tmp_path / "f.gz").write_bytes(whole[:-9])
    with pytest.raises(FileError, match="damaged or cut off"):
        read(tmp_path / "f.gz")
    (tmp_path / "f.gz").write_bytes(b"")
    with pytest.raises(FileError, match="damaged or cut off"):
        read(tmp_path / "f.gz")
    with pytest.raises(OSError, match="No such file"):
        CidFile(str(tmp_path / "nothing"))
