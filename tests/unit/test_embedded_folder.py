"""Where the data is by default, and what is never guessed about it."""

import os
import sys
from pathlib import Path

import pytest
from vsyncd.embedded import default_data_dir


def test_roots_default_on_linux_is_a_place_that_other_users_can_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert default_data_dir() == Path("/var/lib/vsyncd")


def test_a_users_default_is_the_platforms_place_for_user_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    assert default_data_dir().name == "vsyncd"
    assert default_data_dir().is_relative_to("/home/someone")
