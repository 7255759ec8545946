"""The token of a client: read again when its file changes, and never sent to another machine without TLS."""

from pathlib import Path

import pytest
import vsync
from vsync.token import Token, check_confidential


def replace(path: Path, text: str) -> None:
    """Replaces a file as a secret store does."""
    new = path.with_suffix(".new")
    new.write_text(text)
    new.replace(path)


def test_a_file_is_read_again_when_it_changes(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("first\n")
    token = Token(path)
    assert token.refresh() == "Bearer first"
    replace(path, "other")
    assert token.refresh() == "Bearer other"
    replace(path, "")
    assert token.refresh() == "Bearer other"
    path.unlink()
    assert token.refresh() == "Bearer other"
    replace(path, "third")
    assert token.refresh() == "Bearer third"


@pytest.mark.parametrize("text", ["", " \n", "two words", "ação", "a\x00b"])
def test_an_unusable_token_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="visible ASCII"):
        Token(text)
    (tmp_path / "token").write_text(text)
    with pytest.raises(ValueError, match="visible ASCII"):
        Token(tmp_path / "token")


LOCAL = ("localhost:1", "127.0.0.1:1", "127.8.9.1:1", "[::1]:1", "dns:///localhost:1", "ipv6:[::1]:1", "unix:/run/x")
REMOTE = ("vsyncd:50051", "10.0.0.1:1", "localhost.example:1", "dns:///vsyncd:1", "[fe80::1]:1", "0.0.0.0:1", "")


@pytest.mark.parametrize("target", LOCAL)
def test_a_token_may_be_sent_to_this_machine_without_tls(target: str) -> None:
    check_confidential(target, tls=False)


@pytest.mark.parametrize("target", REMOTE)
def test_a_token_is_sent_to_another_machine_over_tls_only(target: str) -> None:
    check_confidential(target, tls=True)
    with pytest.raises(ValueError, match="only over TLS"):
        check_confidential(target, tls=False)
    with pytest.raises(ValueError, match="only over TLS"):
        vsync.connect_sync(target, token="x")


def test_one_token_at_most() -> None:
    with pytest.raises(ValueError, match="exclude each other"):
        vsync.connect_sync("localhost:1", token="x", token_file=Path("y"))
