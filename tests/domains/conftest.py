"""A source tree with the domain `notes`, and its stubs in this process."""

from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest
import vsync

from tests.harness.clusters import Database
from tests.harness.domain_tree import DomainTree
from tests.harness.processes import ServerProcess


class Stubs(NamedTuple):
    """The generated modules of notes.proto."""

    pb: ModuleType
    rpc: ModuleType


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> DomainTree:
    """The source tree with `notes` and its generated stubs."""
    tree = DomainTree(tmp_path_factory.mktemp("tree"))
    tree.add_example()
    return tree


@pytest.fixture(scope="session")
def stubs(tree: DomainTree) -> Stubs:
    """The stubs of `notes`. A caller gets them from the wheel, like those of every other domain."""
    vsync.__path__.append(str(tree.root / "client" / "vsync"))
    return Stubs(import_module("vsync.notes.v1.notes_pb2"), import_module("vsync.notes.v1.notes_pb2_grpc"))


Serve = Callable[..., ServerProcess]


@pytest.fixture
def serve(tree: DomainTree, empty_database: Database, tmp_path: Path) -> Iterator[Serve]:
    """`serve(DOMAINS="all")` starts a server from the tree as the service's role; the owner's role migrates."""
    running: list[ServerProcess] = []

    def start(**settings: str) -> ServerProcess:
        server = ServerProcess(
            empty_database,
            tmp_path / f"server-{len(running)}.log",
            PYTHONPATH=tree.environment["PYTHONPATH"],
            DATABASE_URL=empty_database.service_url,
            DB_MIGRATE_URL=empty_database.owner_url,
            **settings,
        )
        server.start()
        running.append(server)
        return server

    yield start
    for server in running:
        server.kill()
