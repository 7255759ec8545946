"""The cost of the pool manager: CreateCid and GetCid at 64 concurrent calls, with and without it."""

from bench import unary
from bench.report import Figure, rate, ratio
from bench.servers import bare_peer, database, postgres, vsyncd


def run() -> list[Figure]:
    """Returns the rates of alternating runs, and their ratios."""
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
