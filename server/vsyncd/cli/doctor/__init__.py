"""`vsyncd doctor`: checks the settings, and everything that they name.

findings    the results of the checks
settings    variables and access control
databases   PostgreSQL: connections, TLS, roles, versions, clock, migrations, and the programs for backups
services    Redis, gRPC services, folders and ports
command     the command
"""

from vsyncd.cli.doctor.command import doctor

__all__ = ["doctor"]
