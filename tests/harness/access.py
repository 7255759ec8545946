"""Files of access control, and calls of methods by their descriptors."""

import json
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

# A base64 key of 32 bytes.
TENANT_KEY = "q" * 42 + "g="

ROLES = ("reader", "writer", "sync", "auditor", "operator")


def key_of(name: str) -> str:
    """Returns the key of a caller of the tests."""
    return f"secret-of-{name}"


def bearer(name: str) -> tuple[tuple[str, str], ...]:
    """Returns the metadata of a call with the caller's key."""
    return (("authorization", f"Bearer {key_of(name)}"),)


def write_keys(path: Path, names: Iterable[str]) -> None:
    """Writes AUTHN_KEYS_FILE. JSON is YAML."""
    keys = [{"name": name, "sha256": sha256(key_of(name).encode()).hexdigest()} for name in names]
    path.write_text(json.dumps({"keys": keys}))


def write_policy(
    path: Path,
    roles: Mapping[str, Iterable[str]],
    *,
    ispbs: Mapping[str, list[str]] | None = None,
    tenants: Mapping[str, str] | None = None,
) -> None:
    """Writes AUTHZ_FILE, with these roles of each principal, for all participants or those in `ispbs`."""
    entries: list[dict[str, Any]] = [
        {"principal": name, "roles": list(given), "ispbs": (ispbs or {}).get(name, "*")}
        | ({"tenant": tenants[name]} if tenants and name in tenants else {})
        for name, given in roles.items()
    ]
    path.write_text(json.dumps({"principals": entries}))


def key_settings(
    folder: Path,
    roles: Mapping[str, Iterable[str]],
    *,
    ispbs: Mapping[str, list[str]] | None = None,
    tenants: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Returns settings with which these names authenticate with their keys and have these roles.

    They may access all participants, or those in `ispbs`. They belong to one tenant, or to those in `tenants`.
    """
    write_keys(folder / "keys.yaml", roles)
    write_policy(
        folder / "authz.yaml",
        {f"key:{name}": given for name, given in roles.items()},
        ispbs={f"key:{name}": given for name, given in (ispbs or {}).items()},
        tenants={f"key:{name}": tenant for name, tenant in (tenants or dict.fromkeys(roles, "tests")).items()},
    )
    (folder / "tenant.key").write_text(TENANT_KEY)
    files = {
        "authn_keys_file": str(folder / "keys.yaml"),
        "authz_file": str(folder / "authz.yaml"),
        "tenant_hmac_key_file": str(folder / "tenant.key"),
    }
    return {"authn_methods": "key", **files}


async def answers(
    channel: grpc.aio.Channel,
    method: MethodDescriptor,
    requests: Sequence[Message],
    metadata: Iterable[tuple[str, str]] = (),
    *,
    at_most: int | None = None,
) -> list[Any]:
    """Calls a method with these requests, and returns its answers, of a stream `at_most` this number."""
    path = f"/{method.containing_service.full_name}/{method.name}"
    codec: Any = {
        "request_serializer": GetMessageClass(method.input_type).SerializeToString,
        "response_deserializer": GetMessageClass(method.output_type).FromString,
    }
    streams = ("stream" if method.client_streaming else "unary", "stream" if method.server_streaming else "unary")
    call = getattr(channel, "_".join(streams))(path, **codec)(
        iter(requests) if method.client_streaming else requests[0], metadata=tuple(metadata), timeout=60
    )
    if not method.server_streaming:
        return [await call]
    found: list[Any] = []
    while len(found) != at_most and (answer := await call.read()) is not grpc.aio.EOF:
        found.append(answer)
    call.cancel()
    return found


async def outcome(
    channel: grpc.aio.Channel, method: MethodDescriptor, metadata: Iterable[tuple[str, str]] = ()
) -> grpc.StatusCode:
    """Calls a method with an empty request, and returns the code of the first answer."""
    try:
        await answers(channel, method, [GetMessageClass(method.input_type)()], metadata, at_most=1)
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK
