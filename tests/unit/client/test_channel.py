"""The channel's service config and TLS."""

import json
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages

import pytest
import vsync
from google.protobuf.descriptor import ServiceDescriptor
from vsync.channel import channel_options, service_config
from vsyncd.config import load_settings
from vsyncd.health.grpc_service import READINESS
from vsyncd.transport.server import server_options

ROOT = Path(__file__).parents[3]


def services() -> dict[str, ServiceDescriptor]:
    """The services of every module of the contract in the package, by name."""
    modules = [module.name for module in walk_packages(vsync.__path__, "vsync.") if module.name.endswith("_pb2")]
    files = [import_module(name).DESCRIPTOR for name in modules]
    return {service.full_name: service for file in files for service in file.services_by_name.values()}


def test_every_call_is_retried_by_grpc_except_for_health_and_streams() -> None:
    retried, excepted = json.loads(service_config())["methodConfig"]
    assert retried["name"] == [{}]
    assert retried["retryPolicy"]["retryableStatusCodes"] == ["UNAVAILABLE"]
    assert "retryPolicy" not in excepted
    health = {name["service"] for name in excepted["name"] if "method" not in name}
    assert health == {"vsync.health.v1.Health", "grpc.health.v1.Health"}
    streams = {
        (service.full_name, method.name)
        for service in services().values()
        for method in service.methods
        if service.full_name not in health and (method.client_streaming or method.server_streaming)
    }
    assert {(name["service"], name["method"]) for name in excepted["name"] if "method" in name} == streams


def test_clients_in_other_languages_have_the_same_service_config_and_check_health() -> None:
    shared = json.loads((ROOT / "clients/service-config.json").read_text())
    assert shared.pop("healthCheckConfig") == {"serviceName": READINESS}
    assert shared == json.loads(service_config())


def test_keepalive_stays_above_what_the_server_permits() -> None:
    server = dict(server_options(load_settings()))
    assert (
        int(dict(channel_options())["grpc.keepalive_time_ms"]) > server["grpc.http2.min_ping_interval_without_data_ms"]
    )


def test_a_client_certificate_needs_its_key() -> None:
    with pytest.raises(ValueError, match="given together"):
        vsync.Tls(certificate=b"pem")
    with pytest.raises(ValueError, match="given together"):
        vsync.Tls(key=b"pem")


def test_a_missing_pem_file_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        vsync.connect_sync("localhost:1", tls=vsync.Tls(ca=tmp_path / "ca.pem"))


def test_the_server_name_can_be_overridden() -> None:
    assert ("grpc.ssl_target_name_override", "vsyncd") in channel_options(vsync.Tls(server_name="vsyncd"))
