"""Every method of every domain, called with every role: exactly the callers with the declared role are permitted.

The methods come from the descriptors, so a new one is tested without a change here.
"""

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import MethodDescriptor
from vsync.access.v1 import access_pb2

from tests.harness.access import ROLES, bearer, key_settings, outcome
from tests.harness.domains import domain_methods

DENIED = {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED}


@pytest.fixture
def overrides(tmp_path: Path) -> dict[str, Any]:
    """A caller for each role, one with all of them, and one that the policy does not name."""
    callers: dict[str, list[str]] = {role: [role] for role in ROLES} | {"all": list(ROLES)}
    given = key_settings(tmp_path, callers | {"stranger": ["reader"]})
    policy = Path(given["authz_file"])
    policy.write_text(policy.read_text().replace("key:stranger", "key:somebody-else"))
    return {**given, "domains": "all", "max_concurrent_calls": 10_000}


def methods() -> list[MethodDescriptor]:
    health = descriptor_pool.Default().FindServiceByName("vsync.health.v1.Health")
    return [*domain_methods(), *health.methods]


def role_of(method: MethodDescriptor) -> str:
    return access_pb2.Role.Name(method.GetOptions().Extensions[access_pb2.role]).removeprefix("ROLE_").lower()


def expected(method: MethodDescriptor, caller: str) -> str:
    if role_of(method) == "public":
        return "permitted"
    if caller in {"nobody", "impostor"}:
        return "UNAUTHENTICATED"
    return "permitted" if caller in {role_of(method), "all"} else "PERMISSION_DENIED"


async def test_exactly_the_declared_role_may_call_a_method(channel: grpc.aio.Channel) -> None:
    callers = (*ROLES, "all", "stranger", "impostor", "nobody")

    async def call(method: MethodDescriptor, caller: str) -> str:
        code = await outcome(channel, method, () if caller == "nobody" else bearer(caller))
        return code.name if code in DENIED else "permitted"

    pairs = [(method, caller) for method in methods() for caller in callers]
    outcomes = await asyncio.gather(*(call(*pair) for pair in pairs))
    wrong = {
        f"{method.full_name} as {caller}": outcome
        for (method, caller), outcome in zip(pairs, outcomes, strict=True)
        if outcome != expected(method, caller)
    }
    assert wrong == {}
