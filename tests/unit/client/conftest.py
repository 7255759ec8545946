"""What the client's tests share."""

from collections.abc import Iterator

import pytest

from tests.harness.peer import Peer, running_peer


@pytest.fixture
def peer() -> Iterator[Peer]:
    """A gRPC server that answers as the test tells it to."""
    with running_peer() as peer:
        yield peer


@pytest.fixture(params=["async", "sync"])
def twin(request: pytest.FixtureRequest) -> str:
    """Each kind of channel in turn."""
    kind: str = request.param
    return kind
