"""`vsync health`"""

import json

import click
from google.protobuf.json_format import MessageToDict
from rich.table import Table

from vsync.cli.console import error_fields, print_error, print_json, stdout
from vsync.cli.options import Server, machine_option, server_options
from vsync.errors import CallError
from vsync.health.v1 import health_pb2

UNREACHABLE = 3
EXIT_CODES = {health_pb2.HEALTHY: 0, health_pb2.DEGRADED: 1, health_pb2.UNHEALTHY: 2}
_STYLES = {health_pb2.HEALTHY: "green", health_pb2.DEGRADED: "yellow", health_pb2.UNHEALTHY: "red"}


@click.command("health", short_help="Shows how the server is, and what it depends on.")
@click.option("--details", is_flag=True, help="Where each dependency is, and how its pool stands.")
@click.option("--liveness", is_flag=True, help="Only whether the process itself is well, whatever it depends on.")
@server_options
@machine_option
def health_command(*, server: Server, details: bool, liveness: bool, as_json: bool) -> int:
    """How the server is, and what it depends on.

    Exit code: 0 healthy, 1 degraded, 2 unhealthy, 3 unreachable.
    """
    if details and liveness:
        raise click.UsageError("--details and --liveness exclude each other.")
    health: health_pb2.HealthResponse | health_pb2.LivenessResponse
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
    if as_json:
        print_json(MessageToDict(health, preserving_proto_field_name=True, always_print_fields_with_no_presence=True))
    else:
        _print_status(health, server.target)
        if isinstance(health, health_pb2.HealthResponse):
            _print_dependencies(health)
    return EXIT_CODES[health.status]


def _print_status(health: health_pb2.HealthResponse | health_pb2.LivenessResponse, target: str) -> None:
    console = stdout()
    console.print(f"{_status(health.status)}  {target}", end="")
    console.out(f"  {health.message}" if health.message else "")


def _print_dependencies(health: health_pb2.HealthResponse) -> None:
    console = stdout()
    if not health.dependencies:
        return
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="dim")
    for column in ("", "dependency", "status", "latency", "note"):
        table.add_column(column, justify="right" if column == "latency" else "left", overflow="fold")
    for dependency in health.dependencies:
        table.add_row(
            "",
            dependency.name + ("" if dependency.is_critical else " (optional)"),
            _status(dependency.status),
            f"{dependency.response_time_ms} ms",
            dependency.error or dependency.message,
        )
    console.print(table)
    for dependency in health.dependencies:
        if dependency.HasField("config"):
            config = MessageToDict(dependency.config, preserving_proto_field_name=True)
            console.print(f"\n[dim]{dependency.name}[/]")
            console.out(json.dumps(config, indent=2))


def _status(status: health_pb2.ServiceStatus.ValueType) -> str:
    return f"[{_STYLES[status]}]●[/] [bold]{health_pb2.ServiceStatus.Name(status).lower()}[/]"
