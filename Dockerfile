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
        --only-binary :all: "vsyncd[server,tracing] @ file://$(echo "$PWD"/dist/vsyncd-*.whl)"

FROM python:3.13-slim-trixie
# A fixed number, so that runAsNonRoot and the owners of mounted files can be checked without a look inside.
RUN groupadd --gid 10001 vsyncd \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin vsyncd \
 && python -m pip uninstall --yes --quiet --root-user-action ignore pip
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
