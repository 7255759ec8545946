"""What every test can ask for: real PostgreSQL servers, a database of its own, and uvloop for what is async.

`database` is migrated, `empty_database` is not. Both are on PostgreSQL 18, and on 18 and 16 in turn when the test is
marked `both_versions`. A wider scope: `with databases(18).fresh() as database`.
"""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import hypothesis
import pytest

from tests.harness import recovery
from tests.harness.clusters import VERSIONS, Clusters, Database, Databases
from tests.harness.loops import Loop

# An example's time says nothing on a machine that does other things too.
hypothesis.settings.register_profile("vsyncd", deadline=None)
hypothesis.settings.load_profile("vsyncd")

_CLUSTERS = pytest.StashKey[Clusters]()


class Worker(Protocol):
    """What is used of xdist.workermanage.WorkerController; xdist ships no types."""

    config: pytest.Config
    workerinput: dict[str, Any]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fault-report", type=Path, help="write what each fault came to here, as JSON")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """What each fault came to."""
    ended = [report for how in ("passed", "failed") for report in terminalreporter.getreports(how)]
    found = recovery.faults([report for report in ended if report.when == "call"])
    if found:
        terminalreporter.section("time to the first good answer after each fault")
        for line in recovery.lines(found):
            terminalreporter.line(line)
    if path := config.getoption("fault_report"):
        recovery.write(found, path)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "both_versions: run the test on every supported PostgreSQL of the wheel")
    config.stash[_CLUSTERS] = Clusters()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes() -> None:
    """In xdist's controller, before there are workers: they measure their coverage themselves.

    As child processes of the controller they would begin a second measurement: two tracers in one process let
    cancellations of coroutines go astray (CPython 3.11). Their own child processes are measured all the same.
    """
    os.environ.pop("COVERAGE_PROCESS_CONFIG", None)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Worker) -> None:
    """In xdist's controller, for each worker: the servers are the controller's, which outlives them all."""
    clusters = node.config.stash[_CLUSTERS]
    node.workerinput["clusters"] = {str(version): conninfo for version, conninfo in clusters.start_all().items()}
    node.workerinput["folder"] = str(clusters.folder)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Also after Ctrl-C."""
    config.stash[_CLUSTERS].stop()


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], Loop]]:
    """The event loop the service runs on."""
    return {"uvloop": Loop}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "postgres_version" in metafunc.fixturenames and metafunc.definition.get_closest_marker("both_versions"):
        metafunc.parametrize("postgres_version", VERSIONS, indirect=True, ids=[f"pg{version}" for version in VERSIONS])


@pytest.fixture(scope="session")
def databases(request: pytest.FixtureRequest) -> Iterator[Callable[[int], Databases]]:
    """`databases(18)` makes databases on PostgreSQL 18, for as long as their context lasts."""
    opened: dict[int, Databases] = {}

    def on(version: int) -> Databases:
        if version not in opened:
            worker: dict[str, Any] | None = getattr(request.config, "workerinput", None)
            admin = worker["clusters"][str(version)] if worker else request.config.stash[_CLUSTERS].start(version)
            opened[version] = Databases(version=version, admin=admin)
        return opened[version]

    yield on
    for databases in opened.values():
        databases.close()


@pytest.fixture
def postgres_version(request: pytest.FixtureRequest) -> int:
    """The server's major version: 18, or what `both_versions` or an indirect parameter says."""
    version: int = getattr(request, "param", VERSIONS[0])
    return version


@pytest.fixture
def cluster(databases: Callable[[int], Databases], postgres_version: int) -> str:
    """The superuser's conninfo of the whole server, which other tests use too."""
    return databases(postgres_version).admin


@pytest.fixture
def database(databases: Callable[[int], Databases], postgres_version: int) -> Iterator[Database]:
    """A migrated database of this test alone."""
    with databases(postgres_version).fresh() as database:
        yield database


@pytest.fixture
def empty_database(databases: Callable[[int], Databases], postgres_version: int) -> Iterator[Database]:
    """A database of this test alone with nothing in it."""
    with databases(postgres_version).fresh(migrated=False) as database:
        yield database


@pytest.fixture
def folder(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A folder that every user can enter, as pytest's own are not: under root another user runs the server."""
    worker: dict[str, Any] | None = getattr(request.config, "workerinput", None)
    parent = worker["folder"] if worker else request.config.stash[_CLUSTERS].folder
    path = Path(tempfile.mkdtemp(dir=parent))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)
