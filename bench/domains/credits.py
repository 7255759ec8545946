"""Debit beside a plain service with one conditional UPDATE, and concurrent debits of one account.

The plain service writes neither a ledger nor an audit entry nor a request id. Debits of one account are compared with
the same service without groups: one transaction each.
"""

from uuid import uuid4

import grpc
import psycopg
from vsync.credits.v1 import credit_pb2 as pb
from vsync.credits.v1.credit_pb2_grpc import CreditServiceStub

from bench import load
from bench.peers.credits import TENANT
from bench.report import Figure, rate, ratio
from bench.servers import Service, changed_vsyncd, database, plain_peer, postgres, vsyncd

CALLS = 10_000
CALLS_OF_ONE = 5_000
PAIRS = 10
ACCOUNTS = 1_000
_DEBIT = "/vsync.credits.v1.CreditService/Debit"
_FILL = """
    INSERT INTO vsync.credit_accounts (tenant, account, opened_at, available)
    SELECT %s, 'account-' || n, now(), 1000000 FROM generate_series(0, %s) AS n"""


def run() -> list[Figure]:
    """Returns the figures of alternating runs."""
    with (
        postgres() as admin,
        database(admin, "ours") as ours,
        database(admin, "theirs") as theirs,
        vsyncd(ours, DOMAINS="credits") as service,
        plain_peer(theirs, "credits") as peer,
        database(admin, "ungrouped") as third,
        changed_vsyncd("ungrouped_credits", third, DOMAINS="credits") as ungrouped,
    ):
        _fill(theirs, TENANT)
        _fill(ours, _tenant(service, ours))
        _fill(third, _tenant(ungrouped, third))
        mine, others = _pairs(service, peer, calls=CALLS, accounts=ACCOUNTS)
        together, alone = _pairs(service, ungrouped, calls=CALLS_OF_ONE, accounts=1)
    return [
        rate("credits", "Debit, vsyncd", mine, "calls/s"),
        rate("credits", "Debit, plain", others, "calls/s"),
        ratio("credits", "Debit, vsyncd / plain", mine, others, at_least=1.0),
        rate("credits", "64 debits of one account, grouped", together, "calls/s"),
        rate("credits", "64 debits of one account, one transaction each", alone, "calls/s"),
        ratio("credits", "64 debits of one account, grouped / one transaction each", together, alone, at_least=3.0),
    ]


def _fill(conninfo: str, tenant: bytes) -> None:
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute(_FILL.encode(), [tenant, ACCOUNTS - 1])
        connection.execute("VACUUM ANALYZE vsync.credit_accounts")


def _tenant(service: Service, conninfo: str) -> bytes:
    """Returns the tenant of the service's callers."""
    with grpc.insecure_channel(f"127.0.0.1:{service.port}") as channel:
        request = pb.OpenAccountRequest(account="first")
        CreditServiceStub(channel).OpenAccount(request, timeout=60, wait_for_ready=True)
    with psycopg.connect(conninfo) as connection:
        row = connection.execute("SELECT tenant FROM vsync.credit_accounts").fetchone()
    if row is None:
        raise RuntimeError("the account was not opened")
    return bytes(row[0])


def _pairs(service: Service, peer: Service, *, calls: int, accounts: int) -> tuple[list[float], list[float]]:
    samples: tuple[list[float], list[float]] = ([], [])
    for pair in range(PAIRS + 1):
        requests = [_request(f"account-{number % accounts}") for number in range(calls)]
        # Which one begins alternates, too.
        for index in (0, 1) if pair % 2 else (1, 0):
            result = load.run((service, peer)[index].port, _DEBIT, requests, concurrency=64)
            if pair:  # the first pair warms up
                samples[index].append(result)
    return samples


def _request(account: str) -> bytes:
    # The client library sends a request_id with every mutation. The plain service ignores it.
    identifier = str(uuid4())
    request = pb.DebitRequest(account=account, amount="0.01", reference=identifier, request_id=identifier)
    return request.SerializeToString()
