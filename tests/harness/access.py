"""Files of access control, and calls of methods by their descriptors."""

import json
from collections.abc import Iterable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message_factory import GetMessageClass

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
    path: Path, roles: Mapping[str, Iterable[str]], *, ispbs: Mapping[str, list[str]] | None = None
) -> None:
    """Writes AUTHZ_FILE, with these roles of each principal, for all participants or those in `ispbs`."""
    entries = [
        {"principal": name, "roles": list(given), "ispbs": (ispbs or {}).get(name, "*")}
        for name, given in roles.items()
    ]
    path.write_text(json.dumps({"principals": entries}))


def key_settings(folder: Path, roles: Mapping[str, Iterable[str]]) -> dict[str, Any]:
    """Returns settings with which these names authenticate with their keys and have these roles."""
    write_keys(folder / "keys.yaml", roles)
    write_policy(folder / "authz.yaml", {f"key:{name}": given for name, given in roles.items()})
    files = {"authn_keys_file": str(folder / "keys.yaml"), "authz_file": str(folder / "authz.yaml")}
    return {"authn_methods": "key", **files}


async def outcome(
    channel: grpc.aio.Channel, method: MethodDescriptor, metadata: Iterable[tuple[str, str]] = ()
) -> grpc.StatusCode:
    """Calls a method with an empty request, and returns the code of the first answer."""
    request = GetMessageClass(method.input_type)()
    path = f"/{method.containing_service.full_name}/{method.name}"
    codec: Any = {
        "request_serializer": GetMessageClass(method.input_type).SerializeToString,
        "response_deserializer": GetMessageClass(method.output_type).FromString,
    }
    streams = ("stream" if method.client_streaming else "unary", "stream" if method.server_streaming else "unary")
    call = getattr(channel, "_".join(streams))(path, **codec)(
        iter([request]) if method.client_streaming else request, metadata=tuple(metadata), timeout=60
    )
    try:
        await (call.read() if method.server_streaming else call)
    except grpc.aio.AioRpcError as error:
        return error.code()
    if method.server_streaming:
        call.cancel()
    return grpc.StatusCode.OK
