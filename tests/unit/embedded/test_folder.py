"""The default data folder."""

import os
import sys
from pathlib import Path

import pytest
from vsyncd.cli.options import embedded_data_dir
from vsyncd.embedded import default_data_dir

ROOT = Path(__file__).parents[3]


def test_the_default_for_root_on_linux_is_accessible_to_other_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert default_data_dir() == Path("/var/lib/vsyncd")


def test_the_default_for_a_user_is_the_platforms_folder_for_user_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    assert default_data_dir().name == "vsyncd"
    assert default_data_dir().is_relative_to("/home/someone")


def test_a_checkout_has_its_own_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert default_data_dir(Path("/home/someone/vsyncd")) == Path("/home/someone/vsyncd/.data")


def test_checkouts_of_root_have_separate_folders_that_other_users_can_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    one, other = (default_data_dir(Path(folder, "vsyncd")) for folder in ("/srv/one", "/srv/other"))
    assert one != other
    for folder in (one, other):
        assert folder.parent == Path("/var/lib/vsyncd")
        assert folder.name.startswith("vsyncd-")


def test_all_commands_of_a_checkout_use_the_same_folder() -> None:
    assert embedded_data_dir(None) == default_data_dir(ROOT)
    assert embedded_data_dir(Path("elsewhere")) == Path("elsewhere")
    assert ".data/" in (ROOT / ".gitignore").read_text().splitlines()
