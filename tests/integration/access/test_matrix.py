"""Every method of every domain, called with every role, and about the caller's own and another participant.

The methods come from the descriptors, so a new one is called with every role without a change here. If its data belongs
to participants, tests/harness/scopes.py must have requests for it.
"""

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import MethodDescriptor
from vsync.access.v1 import access_pb2

from tests.harness.access import ROLES, answers, bearer, key_settings, outcome
from tests.harness.cids import info_of
from tests.harness.domains import domain_methods, has_participants
from tests.harness.scopes import CASES, FOREIGN, ISPBS, OWN, Target, target

DENIED = {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED}


@pytest.fixture
def overrides(tmp_path: Path) -> dict[str, Any]:
    """A caller for each role, two with all of them (one for one participant), and one that the policy does not name."""
    callers: dict[str, list[str]] = {role: [role] for role in ROLES} | {"all": list(ROLES), "own": list(ROLES)}
    given = key_settings(tmp_path, callers | {"stranger": ["reader"]}, ispbs=ISPBS)
    policy = Path(given["authz_file"])
    policy.write_text(policy.read_text().replace("key:stranger", "key:somebody-else"))
    return {**given, "domains": "all", "max_concurrent_calls": 10_000}


def methods() -> list[MethodDescriptor]:
    further = map(descriptor_pool.Default().FindServiceByName, ("vsync.health.v1.Health", "vsync.v1.StatusService"))
    return [*domain_methods(), *(method for service in further for method in service.methods)]


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


def test_each_method_has_requests_about_a_participant_or_needs_none() -> None:
    with_participants = {method.full_name for method in domain_methods() if has_participants(method.containing_service)}
    assert with_participants == CASES.keys()


async def test_a_caller_accesses_its_own_participant_and_no_other(channel: grpc.aio.Channel) -> None:
    own, foreign = await target(channel, OWN, "own"), await target(channel, FOREIGN, "all")
    named = {method.full_name: method for method in methods()}

    async def call(name: str, of: Target) -> str:
        # A watch has no end: its first message shows whether it is permitted.
        at_most = 1 if name.endswith(".WatchCidEvents") else None
        try:
            found = await answers(channel, named[name], CASES[name].requests(of), bearer("own"), at_most=at_most)
        except grpc.aio.AioRpcError as error:
            return str(info_of(error).reason)
        return "missing" if any(list(getattr(answer, "missing", ())) for answer in found) else "permitted"

    outcomes = {name: (await call(name, own), await call(name, foreign)) for name in CASES}
    # These writes are permitted, but not in the state of the batch.
    refused = {
        "vsync.v1.SyncBatchService.CompleteSyncBatch": "BATCH_INCOMPLETE",
        "vsync.v1.SyncBatchService.RetrySyncBatch": "INVALID_TRANSITION",
    }
    expected = {name: (refused.get(name, "permitted"), case.outcome) for name, case in CASES.items()}
    # An open batch overlaps with another one of the same participant.
    expected["vsync.v1.SyncBatchService.CreateSyncBatch"] = ("BATCH_OVERLAPS", "ISPB_DENIED")
    assert outcomes == expected
