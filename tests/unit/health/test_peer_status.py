"""Messages of other instances are limited in size and number, and expire."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vsyncd.health.peer_status import PeerMessage, Peers

ONE = PeerMessage("one", {"postgresql-primary": "HEALTHY"}, urgent=False)


def test_a_message_is_decoded_as_it_was_encoded() -> None:
    assert PeerMessage.decode(ONE.encode()) == ONE


@given(st.binary(max_size=60))
def test_other_data_is_not_a_message(data: bytes) -> None:
    assert PeerMessage.decode(data) is None


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
def test_a_hostile_message_is_ignored(data: bytes) -> None:
    assert PeerMessage.decode(data) is None


def test_a_peer_expires_after_its_ttl() -> None:
    now = 0.0
    peers = Peers(ttl=30, clock=lambda: now)
    assert peers.store(ONE) is None
    assert peers.store(ONE) == ONE.states
    now = 31.0
    assert not peers.fresh()
    assert peers.store(ONE) is None
    assert peers.store(PeerMessage("two", {}, urgent=False)) is None
    now = 62.0
    peers.store(ONE)
    assert len(peers._known) == 1


def test_the_number_of_peers_is_limited() -> None:
    peers = Peers(ttl=30, clock=lambda: 0.0)
    for number in range(2_000):
        peers.store(PeerMessage(str(number), {}, urgent=False))
    assert len(peers.fresh()) == 1_000
    assert peers.store(PeerMessage("one more", ONE.states, urgent=False)) == ONE.states, "reported as unchanged"
