"""A caller with a restricted scope sees its own participants."""

from vsync.v1 import status_pb2 as pb
from vsyncd.core.scope import ALL, Scope
from vsyncd.status.service import visible

STATUS = pb.ServerStatus(
    version="1",
    batches=[pb.BatchStatus(ispb=ispb) for ispb in ("11111111", "22222222", "")],
    vsyncs=[pb.VsyncStatus(ispb=ispb) for ispb in ("11111111", "22222222")],
    imports=[pb.ImportStatus(import_id="1")],
)


def test_a_scope_restricts_batches_vsyncs_and_imports() -> None:
    seen = visible(STATUS, Scope(frozenset({"11111111"})))
    assert (seen.version, [each.ispb for each in seen.batches], len(seen.imports)) == ("1", ["11111111"], 0)
    assert [each.ispb for each in seen.vsyncs] == ["11111111"]
    assert visible(STATUS, ALL) == STATUS
