"""Tables of the vsync command on wide and narrow terminals, and messages as fields."""

import io

import pytest
from rich.console import Console
from vsync.cli.messages import fields_of
from vsync.cli.tables import print_fields, print_table
from vsync.v1 import audit_pb2, cid_pb2

COLUMNS = ("name", "count", "note")
ROWS = [("one", 1_234_567_890, ""), ("a longer name", 2, "x" * 30)]


def printed(width: int, *, terminal: bool = True) -> list[str]:
    console = Console(file=io.StringIO(), width=width, force_terminal=terminal, color_system=None, highlight=False)
    print_table(console, COLUMNS, iter(ROWS))
    return str(console.file.getvalue()).splitlines()  # type: ignore[attr-defined]  # the StringIO


@pytest.mark.parametrize("width", [100, 60])
def test_a_table_has_a_line_per_row(width: int) -> None:
    assert printed(width) == [
        f"name           {'count':>13}  note",
        "one            1,234,567,890",
        f"a longer name              2  {'x' * 30}",
    ]


def test_a_narrow_terminal_shows_a_block_per_row_without_truncation() -> None:
    blocks = ["name   one", "count  1,234,567,890", "", "name   a longer name", "count  2", f"note   {'x' * 30}"]
    assert printed(59) == blocks
    assert printed(20) == blocks
    assert len(printed(20, terminal=False)) == 3


def test_fields_are_aligned() -> None:
    console = Console(file=io.StringIO(), width=20, color_system=None)
    print_fields(console, [("a", "[bold]"), ("long", "y" * 40)])
    assert console.file.getvalue() == f"a     [bold]\nlong  {'y' * 40}\n"  # type: ignore[attr-defined]  # the StringIO


def test_a_message_has_short_names_and_no_empty_fields() -> None:
    log = audit_pb2.AuditLog(id="i", action="a")
    log.payload.update({"n": 1})
    log.created_at.FromSeconds(1)
    assert fields_of(log) == {"id": "i", "action": "a", "payload": {"n": 1.0}, "created_at": "1970-01-01T00:00:01Z"}
    count = cid_pb2.CidCount(key_type=cid_pb2.KEY_TYPE_EVP, sync_status=cid_pb2.SYNC_STATUS_FAILED)
    assert fields_of(cid_pb2.CountCidsResponse(counts=[count])) == {
        "counts": [{"key_type": "EVP", "sync_status": "FAILED", "count": 0}],
        "total": 0,
    }
