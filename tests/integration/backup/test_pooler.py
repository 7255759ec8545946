"""Backups with PgBouncer in transaction mode: a connection through it is refused."""

from pathlib import Path

import pytest
from vsyncd.backup.errors import DatabaseFailed
from vsyncd.cli.command import run
from vsyncd.config import load_settings
from vsyncd.jobs.backups import backups_of

from tests.harness.backups import databases_of, environment
from tests.harness.clusters import SERVICE, Database
from tests.harness.owners import until
from tests.harness.pgbouncer import pooled

pytestmark = pytest.mark.soak  # needs PgBouncer


def test_backups_need_a_direct_connection_beside_a_pooler(
    filled: Database,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    with pooled(filled.admin, folder):
        through = f"postgresql://{SERVICE}@/{filled.name}?host={folder}&port=6432"
        for name, value in environment(filled, tmp_path / "backups", DATABASE_URL=through).items():
            monkeypatch.setenv(name, value)
        assert run(["backup", "create"]) == 0
        assert run(["backup", "verify", "latest", "--restore"]) == 0
        assert run(["backup", "restore", "latest"]) == 1
        assert "is not empty" in capsys.readouterr().err

        kept, before = backups_of(load_settings()).list(), databases_of(filled.admin)
        monkeypatch.delenv("BACKUP_URL")
        backups = backups_of(load_settings())
        message = "goes through a pooler, .* let BACKUP_URL name the server itself"
        with pytest.raises(DatabaseFailed, match=message):
            backups.create()
        with pytest.raises(DatabaseFailed, match=message):
            backups.verify("latest", restore=True)
        with pytest.raises(DatabaseFailed, match=message):
            backups.restore("latest", replace_target=True)
        assert [each.name for each in backups.list()] == [each.name for each in kept]
    until(lambda: databases_of(filled.admin) <= before)  # concurrent tests have temporary databases too
