"""Categories of connection errors. A category contains no host, user or database name."""

from typing import Final

import psycopg

from vsyncd.session_settings import UnfitDatabase

TIMEOUT: Final = "timeout"
OTHER: Final = "database error"
AUTHENTICATION: Final = "authentication failed"
NO_DATABASE: Final = "no such database"
TOO_MANY: Final = "too many connections"

# PostgreSQL's manual, appendix A. Two characters match the whole class.
_BY_SQLSTATE: Final = {
    "28": AUTHENTICATION,
    "3D": NO_DATABASE,
    "42501": "permission denied",
    "53300": TOO_MANY,
    "57014": TIMEOUT,
    "57P01": "connection lost",
    "57P02": "connection lost",
    "57P03": "server is starting up or shutting down",
    "08": "connection lost",
}
# libpq reports no SQLSTATE for a failed connection attempt, only text: its own (fe-connect.c) and the server's, both in
# English. The first match applies.
_BY_TEXT: Final = (
    ("Connection refused", "connection refused"),
    ("No such file or directory", "connection refused"),  # the Unix socket does not exist
    ("timeout expired", TIMEOUT),
    ("Connection timed out", TIMEOUT),
    ("resolve host", "host not found"),
    ("translate host name", "host not found"),
    ("Name or service not known", "host not found"),
    ("Network is unreachable", "host unreachable"),
    ("No route to host", "host unreachable"),
    ("the database system is", "server is starting up or shutting down"),
    ("too many clients", TOO_MANY),
    ("remaining connection slots", TOO_MANY),
    ("too many connections", TOO_MANY),
    ("authentication failed", AUTHENTICATION),
    ("no password supplied", AUTHENTICATION),
    ("pg_hba.conf", AUTHENTICATION),
    ("role ", AUTHENTICATION),
    ("database ", NO_DATABASE),
    ("certificate", "TLS failure"),
    ("SSL", "TLS failure"),
)


def error_category(error: psycopg.Error) -> str:
    """Returns the category of an error, as text for logs and health reports."""
    if isinstance(error, UnfitDatabase):
        return str(error)
    if isinstance(error, psycopg.errors.ConnectionTimeout):
        return TIMEOUT
    if (state := error.sqlstate) is not None:
        return _BY_SQLSTATE.get(state) or _BY_SQLSTATE.get(state[:2]) or OTHER
    text = str(error)
    if "closed the connection" in text or "terminat" in text or "connection is closed" in text:
        return "connection lost"
    return next((category for fragment, category in _BY_TEXT if fragment in text), "cannot connect")
