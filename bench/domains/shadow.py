"""Shadow evaluations: RecordEvaluation compared with a plain service, and searches among a million evaluations."""

import os
import random
import statistics
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import grpc
import psycopg
from google.protobuf.struct_pb2 import Struct
from vsync.shadow.v1 import shadow_pb2 as pb
from vsync.shadow.v1.shadow_pb2_grpc import ShadowServiceStub
from vsyncd.core.ids import new_id

from bench import load
from bench.report import Figure, rate, ratio
from bench.servers import Service, database, plain_peer, postgres, vsyncd

_METHOD = "/vsync.shadow.v1.ShadowService/RecordEvaluation"
_PAIRS = 10
_CALLS = 4_000
# For a first impression: BENCH_EVALUATIONS=100000.
_EVALUATIONS = int(os.environ.get("BENCH_EVALUATIONS", "1000000"))
_SEARCHES = 100
_MAX_SEARCH_MS = 100.0

# Evaluations of the last 20 days, of which 1 % diverged. `rare`, `percent` and `half` have 10,000, 100 and 2 values.
_FILL = f"""
    ALTER TABLE vsync.evaluations DISABLE TRIGGER evaluations_inserted;
    DROP INDEX vsync.evaluations_results_idx;
    DO $$ BEGIN FOR month IN 0..1 LOOP
        PERFORM vsync.make_partition('evaluations', to_char(begins, 'YYYY_MM'), vsync.uuid_v7_floor(begins)::text,
                                     vsync.uuid_v7_floor(begins + interval '1 month')::text)
        FROM (SELECT date_trunc('month', now(), 'UTC') - month * interval '1 month' AS begins) AS months;
    END LOOP; END $$;
    INSERT INTO vsync.evaluations
    SELECT id, vsync.uuid_v7_time(id), 'limits',
           CASE WHEN h % 10000 = 2 THEN 'rare' WHEN h % 100 = 1 THEN 'percent' WHEN n % 2 = 0 THEN 'half'
                ELSE 'other' END,
           sha256(n::text::bytea),
           jsonb_build_object('score', n % 1000, 'segment', md5((n % 50000)::text), 'half', n % 2 = 0,
                              'percent', h % 100, 'rare', h % 10000, 'amount', n * 0.37,
                              'decision', jsonb_build_object('code', 'C' || n % 20, 'reasons',
                                                             jsonb_build_array('R' || n % 7, 'R' || n % 11))),
           jsonb_build_object('score', n % 1000 + (h % 100 = 0)::int, 'segment', md5((n % 50000)::text)),
           n % 40000, n % 70000, h % 100 = 0, (h % 100 = 0)::int,
           CASE WHEN h % 100 = 0 THEN ARRAY['score'] ELSE '{{}}'::text[] END
    FROM (SELECT n, hashint4(n) & 2147483647 AS h,
                 (left(begin::text, 13) || '-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid AS id
          FROM generate_series(1, {_EVALUATIONS}) AS n,
               LATERAL vsync.uuid_v7_floor(now() - interval '20 days' * ({_EVALUATIONS} - n) / {_EVALUATIONS}) AS begin
         ) AS numbered;
    CREATE INDEX evaluations_results_idx ON vsync.evaluations
        USING gin (primary_result jsonb_path_ops, shadow_result jsonb_path_ops);
    """  # noqa: S608  numbers of this module


def run() -> list[Figure]:
    """Returns the rates of alternating runs with their ratio, and the latencies of searches."""
    with postgres() as admin:
        return [*_record(admin), *_search(admin)]


def _record(admin: str) -> list[Figure]:
    with (
        database(admin, "ours") as ours,
        database(admin, "theirs") as theirs,
        vsyncd(ours, DOMAINS="shadow") as service,
        plain_peer(theirs, "shadow") as peer,
    ):
        mine, others = [], []
        for pair in range(_PAIRS + 1):
            rates = [_rate(each) for each in (service, peer)]
            if pair:  # the first pair warms up
                mine.append(rates[0])
                others.append(rates[1])
    compared = ratio("shadow", "RecordEvaluation, vsyncd / plain", mine, others, at_least=1.0)
    ratios = sorted(compared.samples)
    return [
        rate("shadow", "RecordEvaluation, vsyncd", mine, "calls/s"),
        rate("shadow", "RecordEvaluation, plain", others, "calls/s"),
        compared,
        # The second smallest and second largest of ten enclose the median with a confidence of 97.9 %.
        Figure(bench="shadow", name="RecordEvaluation, ratio, interval from", value=ratios[1], unit="x"),
        Figure(bench="shadow", name="RecordEvaluation, ratio, interval to", value=ratios[-2], unit="x"),
    ]


def _rate(service: Service) -> float:
    return load.run(service.port, _METHOD, [_request(number) for number in range(_CALLS)], concurrency=64)


def _request(number: int) -> bytes:
    score = number % 1000
    primary = _struct({"score": score, "segment": f"S{number % 500}", "decision": {"code": f"C{number % 20}"}})
    shadow = _struct(
        {"score": score + (number % 100 == 0), "segment": f"S{number % 500}", "decision": {"code": f"C{number % 20}"}}
    )
    evaluation = pb.Evaluation(
        evaluation_id=str(new_id()),
        candidate=pb.Candidate(name="limits", version="2.0"),
        input_fingerprint=f"{number:064x}",
        primary_result=primary,
        shadow_result=shadow,
    )
    evaluation.primary_latency.FromMicroseconds(number % 40_000)
    evaluation.shadow_latency.FromMicroseconds(number % 70_000)
    # The client library sends a request_id with every mutation. The plain service ignores it.
    return pb.RecordEvaluationRequest(evaluation=evaluation, request_id=str(uuid4())).SerializeToString()


def _struct(value: dict[str, Any]) -> Struct:
    struct = Struct()
    struct.update(value)
    return struct


def _search(admin: str) -> list[Figure]:
    figures = []
    with database(admin, "million") as conninfo:
        with psycopg.connect(conninfo, autocommit=True) as connection:
            connection.execute("SET synchronous_commit = off; SET maintenance_work_mem = '256MB'")
            connection.execute(_FILL.encode())
            connection.execute("VACUUM ANALYZE")
        with (
            vsyncd(conninfo, DOMAINS="shadow") as service,
            grpc.insecure_channel(f"127.0.0.1:{service.port}") as channel,
        ):
            stub = ShadowServiceStub(channel)
            for name, requests in _searches():
                latencies = sorted(_latencies(stub.SearchEvaluations, requests))
                figures.append(_p95(f"SearchEvaluations, {_EVALUATIONS:,}, {name}, P95", latencies))
    return figures


def _searches() -> Iterator[tuple[str, list[pb.SearchEvaluationsRequest]]]:
    """Yields the requests of each selectivity: by content, by candidate, and by both."""
    draw = random.Random(0)  # noqa: S311  the same values in each run
    for selectivity, field, values in (("0.01 %", "rare", 10_000), ("1 %", "percent", 100)):
        yield (
            f"{selectivity} by content",
            [_search_request(primary_contains=_struct({field: draw.randrange(values)})) for _ in range(_SEARCHES)],
        )
        yield f"{selectivity} by candidate", [_search_request(candidate=_version(field))] * _SEARCHES
    yield (
        "50 % by content",
        [_search_request(primary_contains=_struct({"half": draw.random() < 0.5})) for _ in range(_SEARCHES)],
    )
    yield "50 % by candidate", [_search_request(candidate=_version("half"))] * _SEARCHES
    yield "0.5 % that diverged", [_search_request(candidate=_version("half"), diverged=True)] * _SEARCHES


def _version(version: str) -> pb.Candidate:
    return pb.Candidate(name="limits", version=version)


def _search_request(
    *,
    candidate: pb.Candidate | None = None,
    primary_contains: Struct | None = None,
    diverged: bool | None = None,
) -> pb.SearchEvaluationsRequest:
    request = pb.SearchEvaluationsRequest(
        candidate=candidate, primary_contains=primary_contains, diverged=diverged, page_size=100
    )
    request.evaluated_after.FromDatetime(datetime.now(UTC) - timedelta(days=30))
    request.evaluated_before.FromDatetime(datetime.now(UTC) + timedelta(hours=1))
    return request


def _latencies(
    search: Callable[[pb.SearchEvaluationsRequest], pb.SearchEvaluationsResponse],
    requests: list[pb.SearchEvaluationsRequest],
) -> Iterator[float]:
    """Yields the milliseconds of each call. Every answer must have results."""
    for request in requests:
        begin = time.perf_counter()
        answer = search(request)
        yield (time.perf_counter() - begin) * 1000
        if not answer.evaluations:
            raise RuntimeError("a search found nothing")


def _p95(name: str, latencies: list[float]) -> Figure:
    value = statistics.quantiles(latencies, n=20)[-1]
    return Figure(
        bench="shadow",
        name=name,
        value=value,
        unit="ms",
        target=f"at most {_MAX_SEARCH_MS:.0f}",
        is_met=value <= _MAX_SEARCH_MS,
        samples=latencies,
    )
