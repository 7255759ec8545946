"""Generate `.env.example` and `docs/configuration.md` from vsyncd's settings.

Run `python scripts/make_config_reference.py`. A test fails if the files are outdated.
"""

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from vsyncd.config import Settings
from vsyncd.config.rendering import SettingDescription, describe

ROOT = Path(__file__).resolve().parent.parent

# The first setting of each section.
_SECTIONS = {
    "DOMAINS": "Domains",
    "DATABASE_URL": "PostgreSQL",
    "AUDIT_RETENTION_DAYS": "Retention",
    "REDIS_URL": "Cache",
    "GRPC_LISTEN": "gRPC",
    "HTTP_LISTEN": "Health, shutdown and logs",
    "BACKUP_DIR": "Backups",
}

# Their default depends on the command, so a copied value would override it.
_LEFT_EMPTY = frozenset({"GRPC_LISTEN", "HTTP_LISTEN"})

_ENV_INTRO = """\
# Every setting with its default. Copy to .env for development; elsewhere set what differs in the environment.
# An empty one counts as not set.
"""

_DOCS_INTRO = """\
# Configuration

<!-- Made by scripts/make_config_reference.py from server/vsyncd/config/settings.py; a test compares the two. -->

Settings are environment variables. In development they may also stand in `.env` in the working folder
(`.env.example` has every one with its default); the environment wins over the file, and the flags of `vsyncd serve`
(`--listen`, `--http-listen`) win over both. An empty variable counts as one that is not set.

A wrong value stops the start, with a line for each variable that is wrong: its name and what it takes. Values are not
printed, and secrets never are. `vsyncd check-config` prints what the settings come to, secrets masked.

`DATABASE_URL` is a libpq URL or a `key=value` string. What it says wins over the `DB_` settings of the same meaning,
and what it leaves open they fill in: a URL without a password goes well with `DB_PASSWORD_FILE`. Further parameters
of libpq in it (`options`, `target_session_attrs`, ...) are passed on; to the replicas all but `hostaddr`,
`load_balance_hosts` and `target_session_attrs`, which are said of the hosts in it.

Session settings in `options`, in libpq's environment variables (`PGOPTIONS`, `PGTZ`, ...) and in the defaults of roles
and databases do not count where results depend on them: vsyncd sets those itself on each connection. `PGHOSTADDR` and
`PGTARGETSESSIONATTRS` do not count either.

`DB_MIGRATE_URL` is for an owner role of its own: it migrates, and gives the role of the service the rights that it
needs and no more. What it leaves open (host, database, TLS) is as for the service; the service's password is used
only when the role is the same. Behind a pooler it names the server itself.
"""


def env_example() -> str:
    """The text of `.env.example`."""
    parts = [_ENV_INTRO]
    for title, settings in _sections():
        parts.append(f"\n# --- {title} ---\n\n")
        parts += [_example(setting) for setting in settings]
    return "".join(parts)


def configuration_page() -> str:
    """The text of `docs/configuration.md`."""
    parts = [_DOCS_INTRO]
    for title, settings in _sections():
        parts.append(f"\n## {title}\n\n| variable | takes | default | meaning |\n|---|---|---|---|\n")
        parts += [_row(setting) for setting in settings]
    return "".join(parts)


def _sections() -> Iterator[tuple[str, list[SettingDescription]]]:
    title = ""

    def section_of(setting: SettingDescription) -> str:
        nonlocal title
        title = _SECTIONS.get(setting.name, title)
        return title

    for section, settings in groupby(describe(Settings.model_fields), key=section_of):
        yield section, list(settings)


def _example(setting: SettingDescription) -> str:
    text = f"# {setting.meaning} Takes {setting.takes}."
    if setting.name in _LEFT_EMPTY:
        return f"{text} Default otherwise: {setting.default}.\n{setting.name}=\n"
    return f"{text}\n{setting.name}={setting.default}\n"


def _row(setting: SettingDescription) -> str:
    default = f"`{setting.default}`" if setting.default else ""
    return f"| `{setting.name}` | {setting.takes} | {default} | {setting.meaning} |\n"


def main() -> None:
    """Write both files."""
    (ROOT / ".env.example").write_text(env_example(), encoding="utf-8")
    (ROOT / "docs" / "configuration.md").write_text(configuration_page(), encoding="utf-8")


if __name__ == "__main__":
    main()
