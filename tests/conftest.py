"""Fixtures of all tests: real PostgreSQL servers, a database for each test, and uvloop for asynchronous tests.

`database` is migrated, `empty_database` is not. Both use PostgreSQL 18. A test marked `both_versions` runs on 18 and on
16. For a wider scope use `with databases(18).fresh() as database`.
"""

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import hypothesis
import pytest

from tests.harness import recovery
from tests.harness.clusters import EXTERNAL_URL, VERSIONS, Clusters, Database, Databases, prepare_external
from tests.harness.loops import Loop
from tests.harness.peer import Peer, running_peer

# The tests start hundreds of Python processes. Without bytecode files each of them compiles all modules again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# No time limit per example: other processes share the machine.
hypothesis.settings.register_profile("vsyncd", deadline=None)
hypothesis.settings.load_profile("vsyncd")

_CLUSTERS = pytest.StashKey[Clusters]()


class Worker(Protocol):
    """The attributes of xdist.workermanage.WorkerController that are used here; xdist has no type hints."""

    config: pytest.Config
    workerinput: dict[str, Any]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fault-report", type=Path, help="file for the results of each fault, as JSON")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the recovery time of each fault."""
    ended = [report for how in ("passed", "failed") for report in terminalreporter.getreports(how)]
    found = recovery.faults([report for report in ended if report.when == "call"])
    if found:
        terminalreporter.section("time to the first good answer after each fault")
        for line in recovery.lines(found):
            terminalreporter.line(line)
    if path := config.getoption("fault_report"):
        recovery.write(found, path)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "both_versions: run the test on every PostgreSQL version of the wheel; domains on the older in soak"
    )
    worker: dict[str, Any] | None = getattr(config, "workerinput", None)
    config.stash[_CLUSTERS] = Clusters(Path(worker["folder"])) if worker else Clusters()
    if not worker and (external := os.environ.get(EXTERNAL_URL)):
        prepare_external(external)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes() -> None:
    """Runs in xdist's controller before the workers start. Workers measure their coverage themselves.

    As child processes of the controller they would start a second measurement. With two tracers in one process,
    cancellations of coroutines are lost (CPython 3.11). The workers' own child processes are still measured.
    """
    os.environ.pop("COVERAGE_PROCESS_CONFIG", None)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Worker) -> None:
    """Runs in xdist's controller for each worker. The controller owns the folder, because it outlives the workers."""
    node.workerinput["folder"] = str(node.config.stash[_CLUSTERS].folder)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Stop the servers, also after Ctrl-C."""
    config.stash[_CLUSTERS].stop()


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], Loop]]:
    """The event loop that the service uses."""
    return {"uvloop": Loop}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "postgres_version" in metafunc.fixturenames and metafunc.definition.get_closest_marker("both_versions"):
        # The CI matrix runs the domains' tests on each version, too.
        older = [pytest.mark.soak] if "domains" in metafunc.definition.path.parts else []
        versions = [VERSIONS[0], *(pytest.param(version, marks=older) for version in VERSIONS[1:])]
        metafunc.parametrize("postgres_version", versions, indirect=True, ids=[f"pg{version}" for version in VERSIONS])


@pytest.fixture(scope="session")
def databases(request: pytest.FixtureRequest) -> Iterator[Callable[[int], Databases]]:
    """`databases(18)` creates databases on PostgreSQL 18. Each exists while its context is open."""
    opened: dict[int, Databases] = {}

    def on(version: int) -> Databases:
        if version not in opened:
            opened[version] = Databases(version=version, admin=request.config.stash[_CLUSTERS].start(version))
        return opened[version]

    yield on
    for databases in opened.values():
        databases.close()


@pytest.fixture
def postgres_version(request: pytest.FixtureRequest) -> int:
    """The server's major version: 18, or the value of `both_versions` or of an indirect parameter."""
    version: int = getattr(request, "param", VERSIONS[0])
    return version


@pytest.fixture
def cluster(databases: Callable[[int], Databases], postgres_version: int) -> str:
    """The superuser's conninfo of the server, which other tests of the worker use too."""
    return databases(postgres_version).admin


@pytest.fixture
def database(databases: Callable[[int], Databases], postgres_version: int) -> Iterator[Database]:
    """A migrated database for this test only."""
    with databases(postgres_version).fresh() as database:
        yield database


@pytest.fixture
def empty_database(databases: Callable[[int], Databases], postgres_version: int) -> Iterator[Database]:
    """An empty database for this test only."""
    with databases(postgres_version).fresh(migrated=False) as database:
        yield database


@pytest.fixture
def folder(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A folder that every user can enter: root runs PostgreSQL as another user, and pytest's folders are private."""
    path = Path(tempfile.mkdtemp(dir=request.config.stash[_CLUSTERS].folder))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def peer() -> Iterator[Peer]:
    """A gRPC server that answers as the test instructs it."""
    with running_peer() as peer:
        yield peer


@pytest.fixture(params=["async", "sync"])
def twin(request: pytest.FixtureRequest) -> str:
    """Each kind of channel in turn."""
    kind: str = request.param
    return kind
