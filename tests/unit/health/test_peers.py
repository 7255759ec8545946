"""What other instances say: bounded, and forgotten in time."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vsyncd.health.peers import Peers, Said

ONE = Said("one", {"postgresql-primary": "HEALTHY"}, look=False)


def test_what_is_said_is_heard() -> None:
    assert Said.decode(ONE.encode()) == ONE


@given(st.binary(max_size=60))
def test_whatever_else_comes_is_nothing(data: bytes) -> None:
    assert Said.decode(data) is None


@pytest.mark.parametrize(
    "data",
    [
        b"[" * 10_000,
        b"[" * 100_000,
        b'{"instance": "a", "dependencies": {}, "look": false, "more": "' + b"x" * 100_000 + b'"}',
        b'{"instance": "a", "dependencies": 1, "look": false}',
        b'{"instance": "a", "dependencies": ["ab", 1], "look": false}',
        b'{"instance": "a", "dependencies": {}}',
        b"{}",
        b"[]",
        b"1",
    ],
)
def test_what_is_meant_to_hurt_does_not(data: bytes) -> None:
    assert Said.decode(data) is None


def test_a_peer_is_known_for_a_time_and_then_forgotten() -> None:
    now = 0.0
    peers = Peers(lasts=30, clock=lambda: now)
    assert peers.heard(ONE) is None
    assert peers.heard(ONE) == ONE.states
    now = 31.0
    assert not peers.fresh()
    assert peers.heard(ONE) is None
    assert peers.heard(Said("two", {}, look=False)) is None
    now = 62.0
    peers.heard(ONE)
    assert len(peers._known) == 1


def test_who_makes_up_instances_without_end_is_not_remembered() -> None:
    peers = Peers(lasts=30, clock=lambda: 0.0)
    for number in range(2_000):
        peers.heard(Said(str(number), {}, look=False))
    assert len(peers.fresh()) == 1_000
    assert peers.heard(Said("one more", ONE.states, look=False)) == ONE.states, "nothing new"
