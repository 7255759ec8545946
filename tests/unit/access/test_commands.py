"""`vsyncd dev-certs` and `vsyncd authz`."""

import stat
from pathlib import Path

import pytest
from cryptography import x509
from vsyncd.access.control import AccessControl
from vsyncd.cli.command import run
from vsyncd.core.grants import UNAUTHENTICATED_GRANT
from vsyncd.domains.registry import load_settings

from tests.harness.access import key_settings, write_policy


def settings_of(printed: str) -> dict[str, str]:
    """Returns the settings of the server that the command prints."""
    pairs = (line.partition("=") for line in printed.splitlines() if "=" in line)
    return {name.lower(): value for name, _, value in pairs if not name.startswith("VSYNC_")}


def test_the_development_certificates_give_their_client_every_role(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "certs"
    assert run(["dev-certs", str(folder), "--host", "vsyncd.test"]) == 0
    access = AccessControl(load_settings(**settings_of(capsys.readouterr().out), grpc_listen="0.0.0.0:1"))
    caller = access.caller_of_certificate((folder / "client.pem").read_bytes())
    assert (caller.principal, caller.grant) == ("spiffe://vsyncd.dev/developer", UNAUTHENTICATED_GRANT)
    server = x509.load_pem_x509_certificate((folder / "server.pem").read_bytes())
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert {"localhost", "vsyncd.test"} <= set(names.get_values_for_type(x509.DNSName))
    assert {stat.S_IMODE((folder / f"{name}.key").stat().st_mode) for name in ("server", "client", "tenant")} == {0o600}


def test_valid_certificates_are_kept(tmp_path: Path) -> None:
    def create(*options: str) -> bytes:
        assert run(["dev-certs", str(tmp_path), *options]) == 0
        return (tmp_path / "server.pem").read_bytes()

    first = create()
    assert create() == first
    key = (tmp_path / "tenant.key").read_bytes()
    second = create("--host", "other.test")
    assert second != first
    assert (tmp_path / "tenant.key").read_bytes() == key
    assert create() == second


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("dns:worker --method GetCid", "permitted: vsync.v1.CidService/GetCid needs the role reader; the entry dns:*"),
        ("dns:worker --method /vsync.v1.CidService/GetCid --ispb 10203040", "permitted: "),
        ("dns:worker --method CidService/CreateCid", "denied: vsync.v1.CidService/CreateCid needs the role writer"),
        ("key:other --method GetCid", "denied: no entry matches key:other"),
        (
            "key:one --method GetCid --ispb 20304050",
            "denied: the participant 20304050 is not permitted; ",
        ),
        ("key:one --method GetCid --ispb 10203040", "permitted: "),
        ("key:other --method GetServerInfo", "permitted: vsync.v1.ServerService/GetServerInfo is public"),
    ],
)
def test_a_decision_is_explained(
    options: str, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "authz.yaml"
    write_policy(path, {"dns:*": ["reader"], "key:one": ["reader"]}, ispbs={"key:one": ["10203040"]})
    code = run(["authz", "check", "--file", str(path), "--principal", *options.split()])
    assert capsys.readouterr().out.startswith(expected)
    assert code == (0 if expected.startswith("permitted") else 1)


def test_check_config_names_insecure_addresses_and_invalid_entries(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GRPC_LISTEN", "[::]:50051")
    assert run(["check-config"]) == 1
    assert capsys.readouterr().err.startswith("GRPC_LISTEN: an address that other machines reach requires ")
    monkeypatch.setenv("GRPC_LISTEN", "")
    for name, value in key_settings(tmp_path, {"a": ["reader"]}).items():
        monkeypatch.setenv(name.upper(), value)
    assert run(["check-config"]) == 0
    write_policy(tmp_path / "authz.yaml", {"a": ["reader"]})
    assert run(["check-config"]) == 1
    assert capsys.readouterr().err.startswith("AUTHZ_FILE: principals[0]: principal: ")


def test_an_unknown_method_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_policy(tmp_path / "authz.yaml", {})
    file = ["--file", str(tmp_path / "authz.yaml")]
    assert run(["authz", "check", *file, "--principal", "key:a", "--method", "Cid"]) == 1
    assert capsys.readouterr().err == "--method: Cid is unknown\n"


def test_lint_names_invalid_entries_and_dangerous_prefixes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "authz.yaml"
    write_policy(path, {"dns:*": ["reader"], "spiffe://bank*": ["reader"]})
    assert run(["authz", "lint", str(path)]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == [
        "warning: spiffe://bank* matches longer names, such as spiffe://bankx: end it with a separator"
    ]
    write_policy(path, {"dns:*": ["readr"], "bank": ["reader"]})
    assert run(["authz", "lint", str(path)]) == 1
    assert [line.partition(": ")[2].partition(":")[0] for line in capsys.readouterr().err.splitlines()] == [
        "principals[0]",
        "principals[1]",
    ]
