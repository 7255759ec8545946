"""Generates `.env.example` and `docs/configuration.md` from the settings.

Run `python scripts/make_config_reference.py` after a change of the settings; a test fails until then.
"""

from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from textwrap import fill
from typing import NamedTuple

from pydantic.fields import FieldInfo
from vsyncd.config import Settings
from vsyncd.config.types import accepted_values, format_value
from vsyncd.domains.registry import DOMAINS

ROOT = Path(__file__).resolve().parent.parent

# The first setting of each section.
_SECTIONS = {
    "DOMAINS": "Domains",
    "DATABASE_URL": "PostgreSQL",
    "AUDIT_RETENTION_DAYS": "Retention",
    "REDIS_URL": "Cache",
    "GRPC_LISTEN": "gRPC",
    "TLS_CERT_FILE": "Access control",
    "MAX_CONCURRENT_CALLS": "Limits",
    "HTTP_LISTEN": "Health, shutdown and logs",
    "BACKUP_DIR": "Backups",
}

_ENV_INTRO = """\
# Every setting with its default. Copy this file to .env for development. In production, set environment variables for
# the values that differ. An empty variable is not set.
"""

_DOCS_INTRO = """\
# Configuration

<!-- Made by scripts/make_config_reference.py from the settings of service and domains. A test compares them. -->

Settings are environment variables. In development, the file `.env` in the working directory can set them too
(`.env.example` has every setting with its default). Environment variables have priority over the file, and the flags
`--domains`, `--listen` and `--http-listen` of `vsyncd serve` over both. An empty variable is not set.

A wrong value stops the start. Each wrong variable gets one line with its name and what it takes. Values are not
printed. `vsyncd check-config` prints the effective settings with masked secrets.

Durations are numbers of the unit in the table, or have a unit: `500ms`, `30s`, `5m`, `1h`, `7d`, `1h30m`.

A variable with a misspelled name of a setting is reported in the log of `vsyncd serve`, by `vsyncd
check-config` and by `vsyncd doctor`, with the nearest setting. These are the variables that begin with `AUTHN_`,
`AUTHZ_`, `BACKUP_`, `DATABASE_`, `DB_`, `RECONCILIATION_` or `REDIS_`, and those that differ from a setting by one
letter. Service links of Kubernetes and Docker (`DB_SERVICE_HOST`, ...) are not reported.

Some settings have aliases, which are reported too. Two names with different values stop the start.

| alias | setting |
|---|---|
| `DB_MAX_OPEN_CONNS`, `DATABASE_MAX_CONNECTIONS` | `DB_MAX_CONNECTIONS` |
| `DB_MAX_IDLE_CONNS`, `DB_MAX_IDLE_CONNECTIONS` | `DB_MIN_CONNECTIONS` |
| `DB_CONN_MAX_LIFETIME` | `DB_CONNECTION_MAX_LIFETIME` |
| `DB_CONN_MAX_IDLE_TIME` | `DB_CONNECTION_MAX_IDLE_TIME` |
| `DATABASE_CONN_TIMEOUT` | `DB_CONNECT_TIMEOUT` |
| `PGPASSWORD` | `DB_PASSWORD` |
| `REDIS_ADDR`, `REDIS_DB`, `REDIS_PASSWORD` | the parts of `REDIS_URL` |
| `COMPRESSION` | `BACKUP_COMPRESSION` |
| `USE_DATABASE_STORAGE` | none: PostgreSQL always stores the data, so that false is an error |
| `USE_REDIS_HEALTH_MONITORING`, `USE_REDIS_SESSION_CACHE` | none: `REDIS_URL` decides; false with it is an error |

`DATABASE_URL` is a libpq URL or a `key=value` string. Its values override the corresponding `DB_` settings, which
complete it: for example, use a URL without a password together with `DB_PASSWORD_FILE`. Other libpq parameters in it
(`options`, `target_session_attrs`, ...) are passed on. `hostaddr`, `load_balance_hosts` and `target_session_attrs`
apply only to its own hosts, not to replicas.

vsyncd sets the session settings that results depend on for each connection. Their values in `options`, in libpq's
environment variables (`PGOPTIONS`, `PGTZ`, ...) and in the defaults of roles and databases have no effect. Neither have
`PGHOSTADDR` and `PGTARGETSESSIONATTRS`.

`DB_MIGRATE_URL` is for a separate owner role. It migrates, and grants the service role only the privileges that it
needs. Missing values (host, database, TLS) are taken from the service's connection; the service's password is used only
for the same role. With a pooler, this URL should name the server itself.
"""


class _Setting(NamedTuple):
    name: str
    takes: str
    default: str
    meaning: str


def env_example() -> str:
    """Returns the text of `.env.example`."""
    parts = [_ENV_INTRO]
    for title, settings in _sections():
        parts.append(f"\n# --- {title} ---\n\n")
        parts += [_example(setting) for setting in settings]
    return "".join(parts)


def configuration_page() -> str:
    """Returns the text of `docs/configuration.md`."""
    parts = [_DOCS_INTRO]
    for title, settings in _sections():
        parts.append(f"\n## {title}\n\n| variable | takes | default | meaning |\n|---|---|---|---|\n")
        parts += [_row(setting) for setting in settings]
    return "".join(parts)


def _sections() -> Iterator[tuple[str, list[_Setting]]]:
    title = ""

    def section_of(setting: _Setting) -> str:
        nonlocal title
        title = _SECTIONS.get(setting.name, title)
        return title

    for section, settings in groupby(_described(Settings.model_fields.items()), key=section_of):
        yield section, list(settings)
    for domain in DOMAINS.values():
        declared = domain.settings()
        if declared is not None:
            own = [field for field in declared.model_fields.items() if field[0] not in Settings.model_fields]
            yield f"Domain {domain.name}", list(_described(own))


def _described(fields: Iterable[tuple[str, FieldInfo]]) -> Iterator[_Setting]:
    for name, field in fields:
        meaning = " ".join((field.description or "").split())
        yield _Setting(name.upper(), accepted_values(field), format_value(field.default), meaning)


def _example(setting: _Setting) -> str:
    text = f"{setting.meaning} Takes {setting.takes}."
    return f"{_comment(text)}\n{setting.name}={setting.default}\n"


def _comment(text: str) -> str:
    return fill(text, 120, initial_indent="# ", subsequent_indent="# ")


def _row(setting: _Setting) -> str:
    default = f"`{setting.default}`" if setting.default else ""
    return f"| `{setting.name}` | {setting.takes} | {default} | {setting.meaning} |\n"


def main() -> None:
    """Writes both files."""
    (ROOT / ".env.example").write_text(env_example(), encoding="utf-8")
    (ROOT / "docs" / "configuration.md").write_text(configuration_page(), encoding="utf-8")


if __name__ == "__main__":
    main()
