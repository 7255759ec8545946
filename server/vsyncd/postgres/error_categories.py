"""Why PostgreSQL could not be asked, in a few words that name nobody: no host, no user, no database."""

from typing import Final

import psycopg

from vsyncd.session_settings import UnfitDatabase

TIMEOUT: Final = "timeout"
OTHER: Final = "database error"
AUTHENTICATION: Final = "authentication failed"
NO_DATABASE: Final = "no such database"
TOO_MANY: Final = "too many connections"

# PostgreSQL's manual, appendix A; the class (two characters) where there is no entry for the whole.
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
# libpq gives no SQLSTATE for a connection that was not made, only text (fe-connect.c, and the server's own, in English
# as libpq's is). The first that is found counts.
_BY_TEXT: Final = (
    ("Connection refused", "connection refused"),
    ("No such file or directory", "connection refused"),  # a Unix socket that is not there
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
    """The class of an error of connecting or asking."""
    if isinstance(error, UnfitDatabase):
        return str(error)
    if isinstance(error, psycopg.errors.ConnectionTimeout):
        return TIMEOUT
    if (state := error.sqlstate) is not None:
        return _BY_SQLSTATE.get(state) or _BY_SQLSTATE.get(state[:2]) or OTHER
    text = str(error)
    if "closed the connection" in text or "terminat" in text or "connection is closed" in text:
        return "connection lost"
    return next((cause for part, cause in _BY_TEXT if part in text), "cannot connect")
