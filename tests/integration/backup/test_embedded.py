"""backup, migrate and maintain with --embedded use the server of a running `vsyncd serve --embedded`."""

import re
from pathlib import Path

import pytest
from psycopg.conninfo import make_conninfo
from vsyncd.cli.command import run

from tests.harness.backups import content
from tests.harness.owners import running


def test_commands_use_the_running_embedded_server_and_report_a_missing_one(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("BACKUP_DIR", str(tmp_path / "backups"))
    monkeypatch.setenv("BACKUP_URL", "postgresql://nobody@127.0.0.1:1/of-another-one")
    monkeypatch.chdir(tmp_path)
    where = ["--embedded", "--data-dir", str(folder / "data")]
    with running(folder / "data") as server:
        assert run(["migrate", "up", *where]) == 0
        capsys.readouterr()
        assert run(["migrate", "status", *where]) == 0
        assert "pending" not in capsys.readouterr().out
        assert run(["migrate", "validate", *where]) == 0
        assert run(["maintain", *where]) == 0
        assert run(["backup", "create", *where]) == 0
        assert run(["backup", "verify", "latest", "--restore", *where]) == 0
        capsys.readouterr()
        assert run(["backup", "restore", "latest", "--to", "drill", *where]) == 0
        assert re.fullmatch(r"restored \S+ into drill\n", capsys.readouterr().out)
        assert content(make_conninfo(server.conninfo, dbname="drill")) == content(server.conninfo)
        assert run(["vsync", "verify", *where]) == 0
        monkeypatch.delenv("BACKUP_DIR")
        capsys.readouterr()
        assert run(["backup", "list", *where]) == 0
        assert capsys.readouterr().out == f"no backups in {folder / 'data' / 'backups'}\n"
    assert run(["backup", "create", *where]) == 1
    assert capsys.readouterr().err.startswith(f"vsyncd: no embedded PostgreSQL runs in {folder / 'data'}: start vsyncd")
    assert run(["backup", "create", *where[1:]]) == 2
