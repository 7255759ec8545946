# vsyncd and the vsync command. Needs nothing but the two variables of a database: see docker-compose.yml.
#   docker build --tag vsyncd .
#   docker run --publish 50051:50051 --env DATABASE_URL=postgresql://user:password@host/name vsyncd

FROM python:3.13-slim-trixie AS build
WORKDIR /src
# Without pip of its own: what serves has no need to install anything.
RUN python -m venv --without-pip /opt/vsyncd
COPY pyproject.toml requirements.lock README.md ./
COPY client client
COPY server server
COPY migrations migrations
# The lock says which versions; the wheel says which packages: none of those that only tests and builds need.
RUN python -m pip wheel --no-cache-dir --no-deps --wheel-dir dist . \
 && python -m pip --python /opt/vsyncd/bin/python install --no-cache-dir --constraint requirements.lock \
        --only-binary :all: "vsyncd[server] @ file://$(echo "$PWD"/dist/vsyncd-*.whl)"

# pg_dump and pg_restore, for `vsyncd backup`. From PostgreSQL's own packages, which know TLS and zstd: Debian has those of
# one version alone. 18's work with servers of 17 and 18; what a 16 takes, only 16's can write (docs/backups.md).
FROM python:3.13-slim-trixie AS postgresql
# hadolint ignore=DL3008 # a minor version that is pinned is one that is gone from the archive with the next one
RUN apt-get update \
 && apt-get install --yes --no-install-recommends ca-certificates postgresql-common \
 && /usr/share/postgresql-common/pgdg/apt.postgresql.org.sh -y \
 && apt-get install --yes --no-install-recommends postgresql-client-16 postgresql-client-18 \
 && rm -rf /var/lib/apt/lists/*
# These alone, and the libpq that they need: the packages bring Perl with them.
RUN mkdir --parents /programs/usr/local/lib \
 && cp --parents /usr/lib/postgresql/*/bin/pg_dump /usr/lib/postgresql/*/bin/pg_restore /programs \
 && cp /usr/lib/*-linux-gnu/libpq.so.5 /programs/usr/local/lib

FROM python:3.13-slim-trixie
COPY --from=postgresql /programs /
# What libpq and the programs stand on; Debian's own libpq comes with it, and the one in /usr/local goes before it.
# hadolint ignore=DL3008 # as above
RUN apt-get update \
 && apt-get install --yes --no-install-recommends libpq5 liblz4-1 libzstd1 zlib1g \
 && rm -rf /var/lib/apt/lists/* \
 && ldconfig
# A fixed number, so that runAsNonRoot and the owners of mounted files can be checked without a look inside.
RUN groupadd --gid 10001 vsyncd \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin vsyncd \
 && python -m pip uninstall --yes --quiet --root-user-action ignore pip \
 && install --directory --owner=vsyncd --group=vsyncd --mode=0700 /var/backups/vsyncd
COPY --from=build /opt/vsyncd /opt/vsyncd
ENV PATH=/opt/vsyncd/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
WORKDIR /var/empty
USER 10001:10001
# gRPC; HTTP probes and metrics.
EXPOSE 50051 8080
STOPSIGNAL SIGTERM
# Whether the process answers. Not whether its database does: restarting this container would not mend that. Who waits
# for a service that can serve asks `vsync health` (docker-compose.yml) or grpc.health.v1 (Kubernetes).
HEALTHCHECK --interval=30s --timeout=5s --start-period=30s --retries=3 \
    CMD ["vsync", "health", "--liveness", "--target", "localhost:50051", "--timeout", "3"]
ENTRYPOINT ["vsyncd"]
CMD ["serve"]
