"""CreateCid and GetCid at 64 in flight, against a plain service on the same server."""

from uuid import uuid4

from vsync.v1 import cid_pb2 as pb

from bench import load
from bench.entries import record
from bench.report import Figure, rate, ratio
from bench.servers import database, plain_peer, postgres, vsyncd

CALLS = 10_000
ROUNDS = 5
_CREATE = "/vsync.v1.CidService/CreateCid"
_GET = "/vsync.v1.CidService/GetCid"


def run() -> list[Figure]:
    """The rates of both in turns, and their ratios."""
    rates: dict[tuple[str, str], list[float]] = {}
    with (
        postgres() as admin,
        database(admin, "ours") as ours,
        database(admin, "theirs") as theirs,
        vsyncd(ours) as service,
        plain_peer(theirs) as peer,
    ):
        for round_ in range(ROUNDS + 1):
            records = [record(round_ * CALLS + number) for number in range(CALLS)]
            # The client library sends a request_id with every mutation; the peer has no use for one.
            creates = [pb.CreateCidRequest(record=r, request_id=str(uuid4())).SerializeToString() for r in records]
            gets = [pb.GetCidRequest(cid=r.cid).SerializeToString() for r in records]
            for name, target in (("vsyncd", service), ("plain", peer)):
                for method, requests in ((_CREATE, creates), (_GET, gets)):
                    calls = load.run(target.port, method, requests, concurrency=64)
                    if round_:  # the first round warms up
                        rates.setdefault((name, method), []).append(calls)
    figures = []
    for title, method, at_least in (("CreateCid", _CREATE, 1.5), ("GetCid", _GET, 1.0)):
        mine, theirs_ = rates["vsyncd", method], rates["plain", method]
        figures += [
            rate("unary", f"{title}, vsyncd", mine, "calls/s"),
            rate("unary", f"{title}, plain", theirs_, "calls/s"),
            ratio("unary", f"{title}, vsyncd / plain", mine, theirs_, at_least=at_least),
        ]
    return figures
