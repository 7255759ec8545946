"""How PostgreSQL's programs are run."""

import sys
import threading
from pathlib import Path

import psutil
import pytest
from vsyncd.backup.credentials import credentials
from vsyncd.backup.errors import Interrupted, ProgramsUnfit
from vsyncd.backup.pg_tools import TLS, ZSTD, abilities, find_pg_tools, find_reader
from vsyncd.backup.subprocesses import ProgramFailed, Stop, run_program

from tests.harness.backups import wheel


def run(program: str, *, stop: Stop | None = None, lines: list[str] | None = None) -> None:
    run_program(
        [sys.executable, "-c", program],
        environment={},
        stop=stop or Stop(),
        on_line=(lines if lines is not None else []).append,
        on_tick=lambda: None,
    )


@pytest.mark.parametrize("in_memory", [True, False])
def test_secrets_stand_in_files_of_ours_alone_and_are_gone_afterwards(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *, in_memory: bool
) -> None:
    monkeypatch.setenv("DB_PASSWORD", "hunter2")
    monkeypatch.setenv("PGPASSWORD", "hunter2")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    if not in_memory:
        monkeypatch.setattr("vsyncd.backup.credentials._DESCRIPTORS", tmp_path / "nothing")
    elif sys.platform != "linux":
        pytest.skip("files without a name are Linux's")
    given = "host=db port=5433 user=me dbname=vsync password='a:b\\\\c' options='-c a=b'"
    with credentials(given) as (environment, holding):
        service, passwords = Path(environment["PGSERVICEFILE"]), Path(environment["PGPASSFILE"])
        for _ in range(2):  # each connection reads them anew
            assert service.read_text() == "[vsyncd]\nuser=me\ndbname=vsync\nhost=db\nport=5433\noptions=-c a=b\n"
            assert passwords.read_text() == "*:*:*:*:a\\:b\\\\c\n"
        assert {path.stat().st_mode & 0o777 for path in (service, passwords)} == {0o600}
        if in_memory:
            assert list(tmp_path.iterdir()) == [], "kill -9 would leave it"
            assert len(holding) == 2
        else:
            assert service.parent.stat().st_mode & 0o777 == 0o700
        assert "hunter2" not in environment.values()
    assert list(tmp_path.iterdir()) == []
    assert not service.exists()


def test_without_a_password_the_users_own_file_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPASSFILE", "/home/me/passwords")
    with credentials("host=db") as access:
        assert access.environment["PGPASSFILE"] == "/home/me/passwords"


def test_a_failure_is_told_in_its_words_without_what_may_quote_a_row() -> None:
    said = 'print("pg_dump: error: it broke\\npg_dump: detail: 12345678901\\nDETAIL:  12345678901", file=sys.stderr)'
    with pytest.raises(ProgramFailed, match=r"^it broke$"):
        run(f"import sys; {said}; sys.exit(1)")
    with pytest.raises(ProgramFailed, match="ended with 3"):
        run("import sys; sys.exit(3)")


def test_who_asks_to_stop_ends_the_program_too() -> None:
    stop, lines = Stop(), list[str]()
    begun = threading.Event()

    def ask() -> None:
        assert begun.wait(30)
        stop.ask()

    thread = threading.Thread(target=ask)
    thread.start()

    class Lines(list[str]):
        def append(self, line: str) -> None:
            super().append(line)
            begun.set()

    lines = Lines()
    with pytest.raises(Interrupted):
        run(
            "import os, sys, time; print(os.getpid(), file=sys.stderr, flush=True); time.sleep(600)",
            stop=stop,
            lines=lines,
        )
    thread.join()
    assert not psutil.pid_exists(int(lines[0]))


def test_programs_are_those_of_the_servers_version_else_newer_ones() -> None:
    assert find_pg_tools(16).major == 16
    assert find_pg_tools(18).major == 18
    assert find_pg_tools(17).major in {17, 18}
    assert find_reader(16, folder=find_pg_tools(18).folder).major == 18


def test_programs_that_were_built_without_what_is_needed_are_refused() -> None:
    assert abilities(compression="gzip:1", encrypted=False) == ()
    assert abilities(compression="zstd:3", encrypted=True) == (ZSTD, TLS)
    for ability in (ZSTD, TLS):
        with pytest.raises(
            ProgramsUnfit, match=rf"^{ability.name} is needed, .* without it \(18\.\S+ in {wheel()}\): "
        ):
            find_pg_tools(18, folder=wheel(), needs=[ability])


def test_programs_that_are_too_old_or_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(
        ProgramsUnfit, match=r"^the server is PostgreSQL 18, and .* version 18 or newer; .* 16\.\d+ in "
    ):
        find_pg_tools(18, folder=find_pg_tools(16).folder)
    with pytest.raises(ProgramsUnfit, match=r"^the server is PostgreSQL 16, and needs .* of version 16; "):
        find_pg_tools(16, folder=find_pg_tools(18).folder)  # whose pg_restore sets what 16 does not know
    with pytest.raises(ProgramsUnfit, match=r"^the backup was made by pg_dump 18, and pg_restore in .* is older"):
        find_reader(18, folder=find_pg_tools(16).folder)
    with pytest.raises(ProgramsUnfit, match="there is no pg_dump"):
        find_pg_tools(18, folder=tmp_path)
    for name in ("pg_dump", "pg_restore"):
        (tmp_path / name).write_text("nothing that runs")
    with pytest.raises(ProgramsUnfit, match="there is no pg_dump"):
        find_pg_tools(18, folder=tmp_path)
