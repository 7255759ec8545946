"""`vsync health`"""

import click
from rich.table import Table
from rich.text import Text

from vsync import message_json
from vsync.cli.console import error_fields, print_error, print_json, stdout
from vsync.cli.options import ServerOptions, json_option, server_options
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
        console.print(_dependencies(health))
    for dependency in health.dependencies:
        if dependency.HasField("config"):
            console.print(f"\n[dim]{dependency.name}[/]")
            console.print(_config(dependency.config))


def _dependencies(health: health_pb2.HealthResponse) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="dim")
    for column in ("dependency", "status", "latency", ""):
        table.add_column(column, justify="right" if column == "latency" else "left", overflow="fold")
    for dependency in health.dependencies:
        table.add_row(
            Text(dependency.name + ("" if dependency.is_critical else " (optional)")),
            _status(dependency.status),
            f"{dependency.response_time_ms} ms",
            Text(dependency.error or dependency.message),
        )
    return table


def _config(config: health_pb2.DependencyConfig) -> Table:
    table = Table.grid(padding=(0, 3, 0, 0))
    table.add_column(style="dim")
    for name, value in message_json.as_json(config).items():
        if isinstance(value, dict):
            for part, number in value.items():
                table.add_row(f"  {part}", Text(str(number)))
        elif value:
            table.add_row(f"  {name}", Text(str(value)))
    return table


def _status(status: health_pb2.ServiceStatus.ValueType) -> Text:
    name = health_pb2.ServiceStatus.Name(status).lower()
    return Text.assemble(("● ", _STYLES[status]), (name, "bold"))
