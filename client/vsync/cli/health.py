"""`vsync health`"""

from collections.abc import Iterator

import click
from google.protobuf.message import Message
from rich.text import Text

from vsync import message_json
from vsync.cli.console import error_fields, print_error, print_json, stdout
from vsync.cli.options import ServerOptions, json_option, server_options
from vsync.cli.tables import Cell, print_fields, print_table
from vsync.errors import CallError
from vsync.health.v1 import health_pb2

UNREACHABLE = 3
EXIT_CODES = {health_pb2.HEALTHY: 0, health_pb2.DEGRADED: 1, health_pb2.UNHEALTHY: 2}
_STYLES = {health_pb2.HEALTHY: "green", health_pb2.DEGRADED: "yellow", health_pb2.UNHEALTHY: "red"}


@click.command("health")
@click.option(
    "--details",
    is_flag=True,
    help="Also show each dependency's address, version and connection pool; may need the role operator.",
)
@click.option("--liveness", is_flag=True, help="Only check that the process is alive, without its dependencies.")
@server_options
@json_option
def command(*, server: ServerOptions, details: bool, liveness: bool, as_json: bool) -> int:
    """Show the health of the server and its dependencies.

    Exit codes: 0 healthy, 1 degraded, 2 unhealthy, 3 unreachable.
    """
    health: health_pb2.LivenessResponse | health_pb2.HealthResponse
    try:
        with server.client() as client:
            if liveness:
                health = client.health.GetLiveness(health_pb2.LivenessRequest())
            else:
                health = client.health.GetHealth(health_pb2.HealthRequest(include_details=details))
    except CallError as error:
        if as_json:
            print_json({"status": "UNREACHABLE", "error": error_fields(error)})
        else:
            print_error(error, as_json=False)
        return UNREACHABLE
    if details and isinstance(health, health_pb2.HealthResponse) and not _has_details(health):
        click.echo("note: the server shows the details only to callers with the role operator", err=True)
    if as_json:
        print_json(message_json.as_json(health))
    else:
        _print_health(health, server.target)
    return EXIT_CODES[health.status]


def _has_details(health: health_pb2.HealthResponse) -> bool:
    return any(dependency.HasField("config") for dependency in health.dependencies)


def _print_health(health: health_pb2.LivenessResponse | health_pb2.HealthResponse, target: str) -> None:
    console = stdout()
    console.print(Text.assemble(_status(health.status), f"  {target}", (f"  {health.message}", "dim")), soft_wrap=True)
    if isinstance(health, health_pb2.LivenessResponse):
        return
    if health.dependencies:
        console.print()
        print_table(console, ("dependency", "status", "latency", "message"), map(_dependency, health.dependencies))
    for dependency in health.dependencies:
        if dependency.HasField("config"):
            console.print(f"\n[dim]{dependency.name}[/]")
            print_fields(console, _details(dependency.config))
    if health.HasField("process"):
        console.print("\n[dim]process[/]")
        print_fields(console, _details(health.process))


def _dependency(dependency: health_pb2.DependencyHealth) -> tuple[Cell, ...]:
    return (
        dependency.name + ("" if dependency.is_critical else " (optional)"),
        _status(dependency.status),
        f"{dependency.response_time_ms} ms",
        dependency.error or dependency.message,
    )


def _details(message: Message) -> Iterator[tuple[str, Cell]]:
    """Yields the fields that are set. Fields of a message, and entries of a map, have lines of their own."""
    for name, value in message_json.as_json(message).items():
        if isinstance(value, dict):
            yield from ((f"  {part}", str(number)) for part, number in value.items())
        elif isinstance(value, list):
            for element in value:
                yield f"  {name}", ", ".join(f"{part} {number}" for part, number in element.items())
        elif value:
            yield f"  {name}", str(value)


def _status(status: health_pb2.ServiceStatus.ValueType) -> Text:
    name = health_pb2.ServiceStatus.Name(status).lower()
    return Text.assemble(("● ", _STYLES[status]), (name, "bold"))
