# An image with vsyncd and the vsync command. It needs only a database: see docker-compose.yml.
#   docker build --tag vsyncd .
#   docker run --publish 127.0.0.1:50051:50051 --env DATABASE_URL=postgresql://user:password@host/name \
#       --env ALLOW_INSECURE=true vsyncd

FROM python:3.13-slim-trixie AS build
WORKDIR /src
# Without pip, because the image installs nothing at run time.
RUN python -m venv --without-pip /opt/vsyncd
# The lock files select the versions, and pip checks the hash of each file that it downloads.
COPY requirements-tools.lock requirements-image.lock ./
RUN python -m pip install --no-cache-dir --no-deps --require-hashes --root-user-action ignore -r requirements-tools.lock \
 && python -m pip --python /opt/vsyncd/bin/python install --no-cache-dir --no-deps --require-hashes \
        --only-binary :all: -r requirements-image.lock
COPY pyproject.toml README.md ./
COPY client client
COPY server server
COPY migrations migrations
COPY scripts/descriptor_set.py scripts/
RUN python -m pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir dist . \
 && python -m pip --python /opt/vsyncd/bin/python install --no-cache-dir --no-deps dist/vsyncd-*.whl \
 && cyclonedx-py environment --output-reproducible --output-file /opt/vsyncd/vsyncd.cdx.json /opt/vsyncd/bin/python

# pg_dump and pg_restore for `vsyncd backup`, from PostgreSQL's repository, because Debian has only one version. Version 18
# works with servers 17 and 18. Only version 16 writes dumps that a server 16 can restore (docs/backups.md).
FROM python:3.13-slim-trixie AS postgresql
# hadolint ignore=DL3008 # the archive keeps only the newest minor version, so pinning one would break the build
RUN apt-get update \
 && apt-get install --yes --no-install-recommends ca-certificates postgresql-common \
 && /usr/share/postgresql-common/pgdg/apt.postgresql.org.sh -y \
 && apt-get install --yes --no-install-recommends postgresql-client-16 postgresql-client-18 \
 && rm -rf /var/lib/apt/lists/*
# Only these programs and their libpq are copied, because the packages depend on Perl.
RUN mkdir --parents /programs/usr/local/lib \
 && cp --parents /usr/lib/postgresql/*/bin/pg_dump /usr/lib/postgresql/*/bin/pg_restore /programs \
 && cp /usr/lib/*-linux-gnu/libpq.so.5 /programs/usr/local/lib

FROM python:3.13-slim-trixie
COPY --from=postgresql /programs /
# The libraries that libpq and the programs need. The libpq in /usr/local takes precedence over Debian's.
# hadolint ignore=DL3008 # as above
RUN apt-get update \
 && apt-get install --yes --no-install-recommends libpq5 liblz4-1 libzstd1 zlib1g \
 && rm -rf /var/lib/apt/lists/* \
 && ldconfig
# A fixed user id, for runAsNonRoot and for the owners of mounted files.
RUN groupadd --gid 10001 vsyncd \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin vsyncd \
 && python -m pip uninstall --yes --quiet --root-user-action ignore pip \
 && install --directory --owner=vsyncd --group=vsyncd --mode=0700 /var/backups/vsyncd /certs
COPY --from=build /opt/vsyncd /opt/vsyncd
# Other machines reach the container, so that vsyncd refuses to serve without TLS and authentication (docs/security.md).
ENV PATH=/opt/vsyncd/bin:$PATH \
    GRPC_LISTEN=0.0.0.0:50051 \
    HTTP_LISTEN=0.0.0.0:8080 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
WORKDIR /var/empty
USER 10001:10001
# gRPC, and HTTP for probes. Metrics are on 127.0.0.1:9090 in the container until ADMIN_LISTEN is set.
EXPOSE 50051 8080
STOPSIGNAL SIGTERM
# Checks that the process answers. The state of the database is ignored, because restarting this container would not help.
# To wait until the service can serve, use `vsync health` (docker-compose.yml) or grpc.health.v1 (Kubernetes).
HEALTHCHECK --interval=30s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://localhost:8080/live', timeout=3)"]
ENTRYPOINT ["vsyncd"]
CMD ["serve"]
