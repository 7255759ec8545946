"""Running PostgreSQL's programs, and finding suitable ones."""

import sys
import threading
from pathlib import Path

import psutil
import pytest
from vsyncd.backup.errors import Interrupted, PgToolsUnsuitable
from vsyncd.backup.pg_tools import (
    TLS,
    ZSTD,
    Credentials,
    ProgramFailed,
    build_options,
    credentials,
    find_pg_restore,
    find_pg_tools,
    run_program,
)
from vsyncd.backup.tasks import Task

from tests.harness.backups import wheel


def run(program: str, *, task: Task | None = None, lines: list[str] | None = None) -> None:
    run_program(
        [sys.executable, "-c", program],
        credentials=Credentials({}, ()),
        task=task or Task(),
        on_line=(lines if lines is not None else []).append,
    )


@pytest.mark.parametrize("in_memory", [True, False])
def test_secrets_are_only_in_private_files_that_are_removed_afterwards(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *, in_memory: bool
) -> None:
    monkeypatch.setenv("DB_PASSWORD", "hunter2")
    monkeypatch.setenv("PGPASSWORD", "hunter2")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    if not in_memory:
        monkeypatch.setattr("vsyncd.backup.pg_tools._DESCRIPTORS", tmp_path / "nothing")
    elif sys.platform != "linux":
        pytest.skip("unnamed files need Linux")
    given = "host=db port=5433 user=me dbname=vsync password='a:b\\\\c' options='-c a=b'"
    with credentials(given) as (environment, descriptors):
        service, passwords = Path(environment["PGSERVICEFILE"]), Path(environment["PGPASSFILE"])
        for _ in range(2):  # each connection reads them again
            assert service.read_text() == "[vsyncd]\nuser=me\ndbname=vsync\nhost=db\nport=5433\noptions=-c a=b\n"
            assert passwords.read_text() == "*:*:*:*:a\\:b\\\\c\n"
        assert {path.stat().st_mode & 0o777 for path in (service, passwords)} == {0o600}
        if in_memory:
            assert list(tmp_path.iterdir()) == [], "kill -9 would leave files behind"
            assert len(descriptors) == 2
        else:
            assert service.parent.stat().st_mode & 0o777 == 0o700
        assert "hunter2" not in environment.values()
    assert list(tmp_path.iterdir()) == []
    assert not service.exists()


def test_without_a_password_the_users_own_password_file_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPASSFILE", "/home/me/passwords")
    with credentials("host=db") as access:
        assert access.environment["PGPASSFILE"] == "/home/me/passwords"


def test_an_error_contains_the_programs_messages_without_details_that_may_quote_rows() -> None:
    output = 'print("pg_dump: error: it broke\\npg_dump: detail: 12345678901\\nDETAIL:  12345678901", file=sys.stderr)'
    with pytest.raises(ProgramFailed, match=r": it broke$"):
        run(f"import sys; {output}; sys.exit(1)")
    # Another process wrote a line, or all of it but the prefix, between the prefix and the text of the error.
    for other in ("pg_x: finished item 1", "launching item 1 TABLE x"):
        output = f'print("pg_x: error: {other}\\nit broke\\nDETAIL:  123\\nCONTEXT:  123", file=sys.stderr)'
        with pytest.raises(ProgramFailed, match=r": it broke$"):
            run(f"import sys; {output}; sys.exit(1)")
    with pytest.raises(ProgramFailed, match="exit code 3"):
        run("import sys; sys.exit(3)")


def test_a_stop_request_ends_the_program() -> None:
    task, started = Task(), threading.Event()

    def request_stop() -> None:
        assert started.wait(30)
        task.stop()

    thread = threading.Thread(target=request_stop)
    thread.start()

    class Lines(list[str]):
        def append(self, line: str) -> None:
            super().append(line)
            started.set()

    lines = Lines()
    with pytest.raises(Interrupted):
        run(
            "import os, sys, time; print(os.getpid(), file=sys.stderr, flush=True); time.sleep(600)",
            task=task,
            lines=lines,
        )
    thread.join()
    assert not psutil.pid_exists(int(lines[0]))


def test_tools_of_the_servers_version_are_preferred_to_newer_ones() -> None:
    assert find_pg_tools(16).major == 16
    assert find_pg_tools(18).major == 18
    assert find_pg_tools(17).major in {17, 18}
    assert find_pg_restore(16, folder=find_pg_tools(18).folder).major == 18


def test_tools_without_a_needed_build_option_are_refused() -> None:
    assert build_options(compression="gzip:1", encrypted=False) == ()
    assert build_options(compression="zstd:3", encrypted=True) == (ZSTD, TLS)
    for option in (ZSTD, TLS):
        with pytest.raises(
            PgToolsUnsuitable, match=rf"^{option.name} is needed, .* without it \(18\.\S+ in {wheel()}\): "
        ):
            find_pg_tools(18, folder=wheel(), options=[option])


def test_the_error_names_tools_that_are_missing_or_of_the_wrong_version(tmp_path: Path) -> None:
    with pytest.raises(PgToolsUnsuitable, match=r"^PostgreSQL 18 needs .* of version 18 or newer, but .* 16\.\d+ in "):
        find_pg_tools(18, folder=find_pg_tools(16).folder)
    with pytest.raises(PgToolsUnsuitable, match=r"^PostgreSQL 16 needs .* of version 16, but "):
        find_pg_tools(16, folder=find_pg_tools(18).folder)  # PostgreSQL 16 rejects a setting of this pg_restore
    with pytest.raises(PgToolsUnsuitable, match=r"^the backup was made by pg_dump 18, but .* has only older versions"):
        find_pg_restore(18, folder=find_pg_tools(16).folder)
    with pytest.raises(PgToolsUnsuitable, match="no pg_dump and pg_restore were found"):
        find_pg_tools(18, folder=tmp_path)
    for name in ("pg_dump", "pg_restore"):
        (tmp_path / name).write_text("not executable")
    with pytest.raises(PgToolsUnsuitable, match="no pg_dump and pg_restore were found"):
        find_pg_tools(18, folder=tmp_path)
