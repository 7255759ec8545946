"""The room, put together."""

from functools import partial

from vsync.v1.server_pb2_grpc import add_ServerServiceServicer_to_server

from vsyncd.about.service import ServerService
from vsyncd.rooms import Parts, Room


def room(parts: Parts) -> Room:
    """ServerService."""
    return Room(register=partial(add_ServerServiceServicer_to_server, ServerService(parts.database, parts.settings)))
