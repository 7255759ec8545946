"""Creates the backup manager from the settings."""

from functools import partial
from pathlib import Path

from vsyncd import __version__
from vsyncd.backup.manager import Backups, OnStep
from vsyncd.backup.records import BackupConfig, Retention
from vsyncd.backup.store import BackupStore, FolderStore
from vsyncd.config import ConfigError, Settings
from vsyncd.config.connections import backup_conninfo, backup_database
from vsyncd.jobs.migrations import migration_root
from vsyncd.migrate import latest_versions


def backups_of(settings: Settings, *, on_step: OnStep | None = None) -> Backups:
    """Returns the backups of the configured database. Raises ConfigError if BACKUP_DIR is not set."""
    if settings.backup_dir is None:
        raise ConfigError("BACKUP_DIR: takes the path of a folder, and is needed for backups")
    config = BackupConfig(
        conninfo=partial(backup_conninfo, settings),
        database=backup_database(settings),
        schema=settings.db_schema,
        store=_store(settings, Path(settings.backup_dir)),
        retention=Retention(days=settings.retention_days, count=settings.backup_retention_count),
        known_migrations=latest_versions(migration_root(settings)),
        vsyncd_version=__version__,
        dump_format=settings.backup_format,
        compression=settings.backup_compression,
        jobs=settings.parallel_jobs,
        pg_bin=Path(settings.backup_pg_bin) if settings.backup_pg_bin else None,
    )
    return Backups(config, on_step=on_step)


def _store(settings: Settings, folder: Path) -> BackupStore:
    if settings.backup_s3_url is None:
        return FolderStore(folder)
    # Imported here, because the library loads slowly and most installations have no S3 store.
    from vsyncd.backup.bucket import Bucket, BucketStore  # noqa: PLC0415  see above

    secret = settings.backup_s3_secret_access_key
    bucket = Bucket(
        url=settings.backup_s3_url,
        endpoint=settings.backup_s3_endpoint,
        region=settings.backup_s3_region,
        access_key_id=settings.backup_s3_access_key_id,
        secret_access_key=secret.get_secret_value() if secret else None,
    )
    return BucketStore(bucket, staging=folder)
