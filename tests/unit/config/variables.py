"""Sets environment variables and collects the reported errors."""

import traceback

import pytest
from vsyncd.config import ConfigError, load_settings

VALUE = "hunter2-is-the-value"


def put(monkeypatch: pytest.MonkeyPatch, **variables: str) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


def lines_of(monkeypatch: pytest.MonkeyPatch, **variables: str) -> tuple[str, ...]:
    put(monkeypatch, **variables)
    with pytest.raises(ConfigError) as error:
        load_settings()
    text = "".join(traceback.format_exception(error.value))
    assert not any(value in text for value in variables.values() if len(value) > 8), "a value was printed"
    return error.value.lines
