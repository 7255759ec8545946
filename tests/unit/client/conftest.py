"""The vsync command."""

from pathlib import Path

import pytest

from tests.harness.vsync_command import Vsync, vsync_command


@pytest.fixture
def vsync(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Vsync:
    """Runs the command in this process, in an empty folder."""
    return vsync_command(monkeypatch, tmp_path)
