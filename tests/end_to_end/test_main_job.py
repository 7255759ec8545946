"""The main job on real input, against a real server process over its own PostgreSQL, with real worker processes."""

import subprocess
import sys
from pathlib import Path

import vsync

from scripts.own_server import own_server
from scripts.sync_day import ROOT, SyncDay

COUNT = 100_000


async def test_a_day_of_100_000_keys_agrees_with_what_was_sent_though_a_worker_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "keys.ndjson"
    async with own_server() as target, vsync.connect(target) as client:
        day = SyncDay(client, target, count=COUNT)
        assert list(day.write_sample(path))[-1] == COUNT
        assert {progress.streams async for progress in day.import_file(path)} == {1}
        batch = await day.open_batch()
        events: list[str] = []
        await day.work(batch.id, lambda event: events.append(event.event))
        assert events.count("killed") == 1
        batch = await day.close_batch(batch.id)
        await day.compare_records()
        await day.compare_audit(batch)
        await day.import_again(path)
    assert [check for check in day.checks if not check.holds] == []
    assert 0 < day.sent.failed < COUNT / 100
    assert set(day.sent.key_types) == {"CPF", "CNPJ", "PHONE", "EMAIL", "EVP"}


def test_the_demonstration_starts_its_own_server_and_ends_with_a_verdict() -> None:
    command = [sys.executable, "-m", "scripts.demo", "--count", "2000", "--lease", "1"]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert "all 21 checks hold" in answer.stdout
    assert "kill -9" in answer.stdout
