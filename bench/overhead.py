"""What the pool manager costs: CreateCid and GetCid at 64 in flight, with it and without it."""

from bench import unary
from bench.report import Figure, rate, ratio
from bench.servers import bare_peer, database, postgres, vsyncd


def run() -> list[Figure]:
    """The rates of both in turns, and their ratios."""
    with (
        postgres() as admin,
        database(admin, "ours") as ours,
        database(admin, "theirs") as theirs,
        vsyncd(ours) as service,
        bare_peer(theirs) as peer,
    ):
        mine, others = unary.rates(service, peer)
    figures = []
    for title in unary.METHODS:
        figures += [
            rate("overhead", f"{title}, vsyncd", mine[title], "calls/s"),
            rate("overhead", f"{title}, without its pool manager", others[title], "calls/s"),
            ratio("overhead", f"{title}, with / without", mine[title], others[title], at_least=0.95),
        ]
    return figures
