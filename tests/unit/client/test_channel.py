"""The channel's service config and TLS."""

import json
from pathlib import Path

import pytest
import vsync
from vsync.channel import channel_options, service_config
from vsync.v1 import audit_pb2, cid_pb2, server_pb2, sync_batch_pb2


def test_every_service_is_retried_but_the_import() -> None:
    retried, excepted = json.loads(service_config())["methodConfig"]
    modules = (cid_pb2, sync_batch_pb2, audit_pb2, server_pb2)
    served = {service.full_name for module in modules for service in module.DESCRIPTOR.services_by_name.values()}
    assert {name["service"] for name in retried["name"]} == served
    assert retried["retryPolicy"]["retryableStatusCodes"] == ["UNAVAILABLE"]
    assert excepted == {"name": [{"service": "vsync.v1.CidService", "method": "ImportCids"}]}


def test_keepalive_stays_above_what_the_server_permits() -> None:
    assert int(dict(channel_options())["grpc.keepalive_time_ms"]) > 30_000


def test_half_a_client_certificate_is_refused() -> None:
    with pytest.raises(ValueError, match="come together"):
        vsync.Tls(certificate=b"pem")
    with pytest.raises(ValueError, match="come together"):
        vsync.Tls(key=b"pem")


def test_a_pem_file_that_is_not_there_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        vsync.connect_sync("localhost:1", tls=vsync.Tls(ca=tmp_path / "ca.pem"))


def test_another_server_name_is_an_option() -> None:
    assert ("grpc.ssl_target_name_override", "vsyncd") in channel_options(vsync.Tls(server_name="vsyncd"))
