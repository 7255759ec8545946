"""Compares CreateCid and GetCid at 64 concurrent calls with a plain service on the same server."""

from uuid import uuid4

from vsync.v1 import cid_pb2 as pb

from bench import load
from bench.entries import record
from bench.report import Figure, rate, ratio
from bench.servers import Service, database, plain_peer, postgres, vsyncd

CALLS = 10_000
ROUNDS = 5
METHODS = ("CreateCid", "GetCid")
_AT_LEAST = {"CreateCid": 1.5, "GetCid": 1.0}


def run() -> list[Figure]:
    """Returns the rates of alternating runs, and their ratios."""
    with (
        postgres() as admin,
        database(admin, "ours") as ours,
        database(admin, "theirs") as theirs,
        vsyncd(ours) as service,
        plain_peer(theirs) as peer,
    ):
        mine, others = rates(service, peer)
    figures = []
    for title in METHODS:
        figures += [
            rate("unary", f"{title}, vsyncd", mine[title], "calls/s"),
            rate("unary", f"{title}, plain", others[title], "calls/s"),
            ratio("unary", f"{title}, vsyncd / plain", mine[title], others[title], at_least=_AT_LEAST[title]),
        ]
    return figures


def rates(*services: Service) -> list[dict[str, list[float]]]:
    """Returns calls per second of each service by method, one sample per round. The services alternate."""
    samples: list[dict[str, list[float]]] = [{title: [] for title in METHODS} for _ in services]
    for round_ in range(ROUNDS + 1):
        own_requests = requests(round_)
        for service, own in zip(services, samples, strict=True):
            for title in METHODS:
                calls = load.run(service.port, f"/vsync.v1.CidService/{title}", own_requests[title], concurrency=64)
                if round_:  # the first round warms up
                    own[title].append(calls)
    return samples


def requests(round_: int) -> dict[str, list[bytes]]:
    """Returns the requests of a round by method. Two rounds have no request in common."""
    records = [record(round_ * CALLS + number) for number in range(CALLS)]
    return {
        # The client library sends a request_id with every mutation. The plain service ignores it.
        "CreateCid": [pb.CreateCidRequest(record=r, request_id=str(uuid4())).SerializeToString() for r in records],
        "GetCid": [pb.GetCidRequest(cid=r.cid).SerializeToString() for r in records],
    }
