"""Helpers for tests of CIDs: records, errors and queries."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from hashlib import sha256
from typing import Any, TypeAlias
from uuid import UUID, uuid4

import grpc
import psycopg
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status
from psycopg.rows import DictRow, dict_row
from vsync.v1 import cid_pb2 as pb
from vsync.v1 import cid_pb2_grpc

from tests.harness.clusters import Database

Stub: TypeAlias = "cid_pb2_grpc.CidServiceAsyncStub"
ISPB = "12345678"


def cid_of(number: int) -> str:
    """Returns the cid of `a_record(number)`."""
    return sha256(b"%d" % number).hexdigest()


def a_record(number: int, **changes: Any) -> pb.CidRecord:
    """Returns a record that is derived from its number. `changes` replace fields."""
    fields: dict[str, Any] = {
        "cid": cid_of(number),
        "key_type": pb.KEY_TYPE_CPF,
        "key_value": f"{number:011d}",
        "ispb": ISPB,
        "branch": "0001",
        "account_number": str(number),
        "account_type": pb.ACCOUNT_TYPE_CACC,
        "tax_id": f"{number:011d}",
        "dict_request_id": str(UUID(int=number)),
    }
    return pb.CidRecord(**fields | changes)


def some_records(count: int, first: int = 0) -> list[pb.CidRecord]:
    """Returns records with consecutive numbers."""
    return [a_record(number) for number in range(first, first + count)]


def a_request_id() -> str:
    """Returns a new request_id."""
    return str(uuid4())


async def create(cids: Stub, numbers: Iterable[int]) -> list[pb.CidRecord]:
    """Creates records with these numbers in one batch."""
    request = pb.BatchCreateCidsRequest(records=[a_record(number) for number in numbers])
    return list((await cids.BatchCreateCids(request)).records)


async def failure_of(call: Awaitable[Any]) -> grpc.aio.AioRpcError:
    """Returns the error of a call."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


def status_of(error: grpc.aio.AioRpcError) -> status_pb2.Status:
    """Returns the google.rpc.Status of an error."""
    status: status_pb2.Status | None = rpc_status.from_call(error)  # type: ignore[arg-type]  # it reads what this has
    assert status is not None, f"no details: {error.code()} {error.details()}"
    return status


def info_of(error: grpc.aio.AioRpcError) -> error_details_pb2.ErrorInfo:
    """Returns the ErrorInfo of an error."""
    return unpacked(status_of(error), error_details_pb2.ErrorInfo())


def unpacked(status: status_pb2.Status, message: Any) -> Any:
    """Returns the detail of the type of `message`."""
    for detail in status.details:
        if detail.Unpack(message):
            return message
    raise AssertionError(f"no {type(message).__name__} among the details")


def rows(database: Database, query: str, *parameters: object) -> list[DictRow]:
    """Returns the rows of a query, executed as superuser."""
    with psycopg.connect(database.admin, row_factory=dict_row) as connection:
        return connection.execute(query.encode(), parameters).fetchall()


def execute(database: Database, statement: str, *parameters: object) -> None:
    """Executes a statement as the owner, like an operator."""
    with psycopg.connect(database.owner) as connection:
        connection.execute(statement.encode(), parameters)


def stored(database: Database) -> dict[str, str]:
    """Returns the key of each stored cid."""
    return {
        row["cid"]: row["key_value"]
        for row in rows(database, "SELECT encode(cid,'hex') cid, key_value FROM vsync.cids")
    }


async def until(condition: Callable[[], bool], *, seconds: float = 60) -> None:
    """Waits until the condition is true, by polling."""
    async with asyncio.timeout(seconds):
        while not await asyncio.to_thread(condition):  # noqa: ASYNC110  the database announces nothing
            await asyncio.sleep(0.02)


def waiting_for_locks(database: Database) -> int:
    """Returns the number of connections of the database that wait for a lock."""
    query = "SELECT count(*) AS n FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    count: int = rows(database, query)[0]["n"]
    return count


async def messages(
    import_id: str, on_conflict: int, chunks: Iterable[tuple[int, list[pb.CidRecord]]]
) -> AsyncIterator[pb.ImportCidsRequest]:
    """Yields the requests of an import: the start, then a chunk for each (number, records)."""
    yield pb.ImportCidsRequest(start=pb.ImportStart(import_id=import_id, on_conflict=on_conflict))  # type: ignore[arg-type]  # an enum's number
    for number, records in chunks:
        yield pb.ImportCidsRequest(chunk=pb.ImportChunk(number=number, records=records))
