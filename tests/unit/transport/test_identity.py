"""Who calls is what the certificate says."""

from types import SimpleNamespace
from typing import Any

import pytest
from vsyncd.call import Call
from vsyncd.transport.identity import Identity
from vsyncd.transport.pipeline import Method

METHOD = Method("vsync.v1.CidService/GetCid", request_streaming=False, response_streaming=False)


async def actor_of(properties: dict[str, list[bytes]], *, mutual_tls: bool = True) -> str:
    """The actor of a call on a connection with these properties."""
    call = Call(METHOD.name, context=SimpleNamespace(auth_context=lambda: properties))

    async def handler(_request: Any, call: Call) -> str:
        return call.actor

    actor: str = await Identity(mutual_tls=mutual_tls).wrap(METHOD, handler)(None, call)
    return actor


@pytest.mark.parametrize(
    ("properties", "actor"),
    [
        ({"x509_common_name": [b"worker-7"]}, "worker-7"),
        ({"x509_common_name": [b"worker-7"], "x509_subject_alternative_name": [b"other"]}, "worker-7"),
        ({"x509_subject_alternative_name": [b"spiffe://bank/vsync", b"other"]}, "spiffe://bank/vsync"),
        ({"transport_security_type": [b"ssl"]}, "anonymous"),
        ({"x509_common_name": [b""]}, "anonymous"),
        ({"x509_common_name": ["João".encode()]}, "João"),
        ({"x509_common_name": [b"a\0b\xff"]}, "ab\ufffd"),
        ({"x509_common_name": [b"x" * 300]}, "x" * 200),
    ],
)
async def test_the_actor_is_the_certificates_name(properties: dict[str, list[bytes]], actor: str) -> None:
    assert await actor_of(properties) == actor


async def test_without_mutual_tls_everyone_is_anonymous() -> None:
    assert await actor_of({"x509_common_name": [b"worker-7"]}, mutual_tls=False) == "anonymous"
