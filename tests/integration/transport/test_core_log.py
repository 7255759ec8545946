"""The log consists of JSON lines, whatever gRPC core writes to standard error."""

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID

from tests.harness.access import write_policy
from tests.harness.processes import SCRIPTS
from tests.harness.tls import Authority

Knock = Callable[["Server"], None]
NO_DATABASE = {"DATABASE_URL": "postgresql://nobody@127.0.0.1:1/nothing", "DB_AUTO_MIGRATE": "false"}
# Less than the limit of a test, so that a failure shows the log.
_TIMEOUT_S = 150
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


class Server:
    """`vsyncd serve` with mutual TLS and without a database."""

    def __init__(self, folder: Path, log: Path, process: subprocess.Popen[bytes]) -> None:
        self.folder = folder
        self.log = log
        self.process = process

    @property
    def lines(self) -> list[str]:
        return self.log.read_text().splitlines()

    @property
    def events(self) -> list[dict[str, Any]]:
        """The log so far; every line is JSON."""
        return [json.loads(line) for line in self.lines]

    def named(self, event: str) -> list[dict[str, Any]]:
        return [each for each in self.events if each["event"] == event]

    def wait_for(self, event: str, *, after: int = 0) -> dict[str, Any]:
        """The first event of this name after so many."""
        end = time.monotonic() + _TIMEOUT_S
        while time.monotonic() < end:
            assert self.process.poll() is None, self.lines
            if len(found := self.named(event)) > after:
                return found[after]
            time.sleep(0.05)
        raise AssertionError(self.lines)

    def connect(self) -> socket.socket:
        port = self.wait_for("serving")["port"]
        return socket.create_connection(("127.0.0.1", port), timeout=60)

    def send(self, data: bytes) -> None:
        """Sends bytes, and reads until the server closes the connection."""
        with self.connect() as connection, suppress(OSError):
            connection.sendall(data)
            while connection.recv(4096):
                pass

    def handshake(self, certificate: str | None) -> None:
        """A TLS handshake with this client certificate."""
        context = ssl.create_default_context(cafile=self.folder / "authority.pem")
        context.check_hostname = False
        if certificate:
            context.load_cert_chain(self.folder / f"{certificate}.pem", self.folder / f"{certificate}.key")
        with self.connect() as connection, suppress(OSError), context.wrap_socket(connection) as tls:
            tls.recv(1)


@pytest.fixture
def pems(tmp_path: Path) -> Path:
    """The certificates of an authority, a server, an expired client, and a client of another authority."""
    authority, stranger = Authority(), Authority("Stranger")
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "vsyncd.test")])
    authority.write_to(tmp_path, "authority")
    authority.issue(name, [x509.DNSName("vsyncd.test")]).write_to(tmp_path, "server")
    authority.issue(name, expires_in=timedelta(hours=-1)).write_to(tmp_path, "expired")
    stranger.issue(name).write_to(tmp_path, "stranger")
    write_policy(tmp_path / "authz.yaml", {"dns:*": ["reader"]})
    return tmp_path


@contextmanager
def serving(pems: Path, **settings: str) -> Iterator[Server]:
    log = pems / "log"
    environment = os.environ | {
        **NO_DATABASE,
        "TLS_CERT_FILE": str(pems / "server.pem"),
        "TLS_KEY_FILE": str(pems / "server.key"),
        "TLS_CLIENT_CA_FILE": str(pems / "authority.pem"),
        "AUTHN_METHODS": "mtls",
        "AUTHZ_FILE": str(pems / "authz.yaml"),
        "LOG_FORMAT": "json",
        "SHUTDOWN_GRACE": "1",
    }
    command = [str(SCRIPTS / "vsyncd"), "serve", "--listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0"]
    with log.open("ab") as output:
        process = subprocess.Popen(command, env=environment | settings, stdout=output, stderr=output, cwd=pems)
    try:
        yield Server(pems, log, process)
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(_TIMEOUT_S) == 0


FAILED_HANDSHAKES: dict[str, tuple[Knock, dict[str, str]]] = {
    "plaintext HTTP/2": (lambda server: server.send(PREFACE), {"cause": "WRONG_VERSION_NUMBER"}),
    "plaintext HTTP/1": (lambda server: server.send(b"GET / HTTP/1.1\r\n\r\n"), {"cause": "HTTP_REQUEST"}),
    "garbage": (lambda server: server.send(bytes(range(256)) * 10), {"cause": "WRONG_VERSION_NUMBER"}),
    "no certificate": (lambda server: server.handshake(None), {"cause": "PEER_DID_NOT_RETURN_A_CERTIFICATE"}),
    "another authority": (
        lambda server: server.handshake("stranger"),
        {"cause": "CERTIFICATE_VERIFY_FAILED", "detail": "unable to get local issuer certificate"},
    ),
    "an expired certificate": (
        lambda server: server.handshake("expired"),
        {"cause": "CERTIFICATE_VERIFY_FAILED", "detail": "certificate has expired"},
    ),
}


INCOMPLETE = (b"", b"\x16", b"\x16\x03\x01\x02\x00\x01", b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00")


def test_a_failed_handshake_is_a_log_event_with_its_cause(pems: Path) -> None:
    """Incomplete handshakes leave a log of JSON lines too."""
    with serving(pems) as server:
        for knock, fields in FAILED_HANDSHAKES.values():
            before = len(server.named("TLS handshake failed"))
            knock(server)
            event = server.wait_for("TLS handshake failed", after=before)
            assert fields.items() <= event.items()
            assert event.keys() - fields.keys() == {"event", "level", "logger", "time"}, "no address of a peer"
            assert event["level"] == "info"
        for data in INCOMPLETE:
            with server.connect() as connection:
                connection.sendall(data)
    assert server.events[-1]["event"] == "stopped"


@pytest.mark.soak
def test_failed_handshakes_are_logged_at_a_limited_rate(pems: Path) -> None:
    with serving(pems, LOG_FAILURES_PER_SECOND="1") as server:
        server.wait_for("serving")
        begin = time.monotonic()
        left_out = 0
        while left_out < 5:
            assert time.monotonic() < begin + _TIMEOUT_S
            # At once, so that a busy machine fails more than one in a second.
            with ThreadPoolExecutor(30) as senders:
                for _ in range(30):
                    senders.submit(server.send, PREFACE)
            left_out = sum(event.get("left_out", 0) for event in server.named("TLS handshake failed"))
        logged = len(server.named("TLS handshake failed"))
        assert logged <= time.monotonic() - begin + 1


def test_a_line_of_grpc_core_on_another_subject_is_a_log_event_too(pems: Path) -> None:
    """gRPC core writes the details of a port that is taken, and Python reports it as well."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        environment = os.environ | NO_DATABASE | {"LOG_FORMAT": "json"}
        command = [str(SCRIPTS / "vsyncd"), "serve", "--http-listen", "127.0.0.1:0"]
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        ended = subprocess.run(
            [*command, "--listen", listen], env=environment, capture_output=True, text=True, cwd=pems, check=False
        )
    *lines, last = ended.stderr.splitlines()
    assert ended.returncode == 1
    assert last.startswith(("vsyncd: GRPC_LISTEN", "Error: GRPC_LISTEN"))
    [event] = [event for event in map(json.loads, lines) if event["event"] == "gRPC core"]
    assert (event["level"], event["source"].partition(":")[0]) == ("error", "add_port.cc")
    assert "Address already in use" in event["text"]


def run_captured(program: str) -> subprocess.CompletedProcess[str]:
    """Runs a program inside `core_log`."""
    source = (
        "import ctypes, faulthandler, gc, os, sys, threading, warnings\n"
        "from vsyncd.observability import logs\n"
        "from vsyncd.transport.core_log import core_log\n"
        "with core_log(max_per_second=10):\n"
        "    logs.configure(level='INFO', form='json')\n" + textwrap.indent(textwrap.dedent(program), "    ")
    )
    return subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=False, timeout=120)


def test_text_of_a_library_is_logged_whole_and_in_order() -> None:
    ended = run_captured("for number in range(100): os.write(2, f'line {number}\\n'.encode())\nos.write(2, b'end')")
    texts = [json.loads(line)["text"] for line in ended.stderr.splitlines()]
    assert texts == [*(f"line {number}" for number in range(100)), "end"]


def test_a_flood_from_code_that_holds_the_interpreter_does_not_block() -> None:
    ended = run_captured("for _ in range(100): ctypes.PyDLL(None).write(2, b'x' * 9999 + b'\\n', 10000)")
    assert ended.returncode == 0


def test_errors_and_warnings_without_a_handler_are_log_events_without_their_text() -> None:
    ended = run_captured(
        """
        class Fails:
            def __del__(self): raise ValueError("secret")
        def fail(): raise KeyError("secret")
        Fails()
        thread = threading.Thread(target=fail, name="worker")
        thread.start()
        thread.join()
        warnings.warn("old", UserWarning)
        """
    )
    events = [json.loads(line) for line in ended.stderr.splitlines()]
    assert [event.get("error") for event in events] == ["ValueError", "KeyError", None]
    assert events[1]["thread"] == "worker"
    assert (events[2]["logger"], "old" in events[2]["event"]) == ("py.warnings", True)
    assert "secret" not in ended.stderr


def test_the_traceback_of_an_error_that_ends_the_process_is_kept() -> None:
    ended = run_captured("raise ValueError('the end')")
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1] == "ValueError: the end"


@pytest.mark.parametrize("crash", ["os.abort()", "faulthandler._sigsegv()"])
def test_the_stack_of_a_crash_is_kept(crash: str) -> None:
    ended = run_captured(crash)
    assert ended.returncode < 0
    assert 'File "<string>", line 6' in ended.stderr


def test_standard_error_is_restored_at_the_end() -> None:
    source = (
        "import os, sys\nfrom vsyncd.transport.core_log import core_log\nbefore = sys.stderr\n"
        "with core_log(max_per_second=1): pass\n"
        "assert sys.stderr is before\nos.write(2, b'raw\\n')\nprint('python', file=sys.stderr)"
    )
    after = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True)
    assert after.stderr == "raw\npython\n"
