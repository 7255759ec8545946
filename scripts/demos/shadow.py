"""Shows shadow evaluations: two versions of a candidate, their divergence, and a repeat that changes nothing."""

import asyncio
import random
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple

import vsync
from google.protobuf.struct_pb2 import Struct
from vsync.shadow.v1 import shadow_pb2 as pb
from vsync.shadow.v1.shadow_pb2_grpc import ShadowServiceStub

from scripts.demo_screen import Check, Screen

COUNT: Final = 4_000
_BATCH: Final = 200
_REPEATS: Final = 100
# The shares of evaluations in which each version differs, by the path.
_DIVERGENCE: Final = {"1.0": {"limit": 0.10, "reasons[1]": 0.03}, "2.0": {"limit": 0.01}}


class Sent(NamedTuple):
    """An evaluation, and the paths at which its results differ."""

    evaluation: pb.Evaluation
    paths: list[str]


async def demonstrate(screen: Screen, target: str) -> list[Check]:
    """Records evaluations, and compares the answers with what was sent."""
    async with vsync.connect(target) as client:
        shadow: Any = client.stub(ShadowServiceStub)
        sent = _evaluations()
        screen.step(f"1  Record {COUNT:,} evaluations of two versions", "RecordEvaluations")
        diverged = await _record(screen, shadow, sent)
        screen.step(f"2  Record {_REPEATS} of them again, and one with another result", "RecordEvaluation")
        again, reason = await _repeat(screen, shadow, sent)
        screen.step("3  Search those that diverged, newest first", "SearchEvaluations")
        found = {version: await _search(shadow, version) for version in _DIVERGENCE}
        screen.say(", ".join(f"{count:,} of version {version}" for version, count in found.items()))
        screen.step("4  Sum up both versions", "GetDivergenceSummary")
        summaries = {version: await _summary(screen, shadow, version) for version in _DIVERGENCE}
    checks = [
        Check("diverged, as answered", sum(bool(each.paths) for each in sent), diverged),
        Check("stored by repeats", 0, again),
        Check("another result under the same id", "EVALUATION_DIFFERS", reason),
    ]
    for version, summary in summaries.items():
        own = [each for each in sent if each.evaluation.candidate.version == version]
        checks += [
            Check(f"diverged, version {version}, found", sum(bool(each.paths) for each in own), found[version]),
            Check(f"evaluations, version {version}", len(own), summary.evaluations),
            Check(f"diverged, version {version}", sum(bool(each.paths) for each in own), summary.diverged),
            Check(
                f"paths, version {version}",
                dict(Counter(path for each in own for path in each.paths)),
                {each.path: each.evaluations for each in summary.paths},
            ),
        ]
    return checks


def _evaluations() -> list[Sent]:
    draw = random.Random(0)  # noqa: S311  the same evaluations in each run
    sent = []
    for number in range(COUNT):
        version = "1.0" if number % 2 else "2.0"
        primary: dict[str, Any] = {"decision": "APPROVED", "limit": 100 * draw.randint(1, 50), "reasons": ["KYC"]}
        paths = [path for path, share in _DIVERGENCE[version].items() if draw.random() < share]
        shadow = dict(primary)
        if "limit" in paths:
            shadow["limit"] = primary["limit"] + 100
        if "reasons[1]" in paths:
            shadow["reasons"] = ["KYC", "SCORE"]
        evaluation = pb.Evaluation(
            candidate=pb.Candidate(name="limits", version=version),
            input_fingerprint=f"{number:064x}",
            primary_result=_struct(primary),
            shadow_result=_struct(shadow),
        )
        evaluation.primary_latency.FromMicroseconds(draw.randint(5_000, 20_000))
        evaluation.shadow_latency.FromMicroseconds(draw.randint(8_000, 60_000))
        sent.append(Sent(evaluation, paths))
    return sent


async def _record(screen: Screen, shadow: Any, sent: list[Sent]) -> int:  # noqa: ANN401  an asynchronous stub
    """Records everything in batches. Returns how many diverged. The service's ids are added to the evaluations."""
    diverged = 0
    with screen.bars() as progress:
        bar = progress.add_task("recorded", total=len(sent), note="")
        for at in range(0, len(sent), _BATCH):
            batch = [each.evaluation for each in sent[at : at + _BATCH]]
            answer = await shadow.RecordEvaluations(pb.RecordEvaluationsRequest(evaluations=batch))
            for evaluation, recorded in zip(batch, answer.evaluations, strict=True):
                evaluation.evaluation_id = recorded.evaluation_id
                diverged += recorded.diverged
            progress.update(bar, advance=len(batch))
    return diverged


async def _repeat(screen: Screen, shadow: Any, sent: list[Sent]) -> tuple[int, str]:  # noqa: ANN401  as above
    """Returns how many repeats were stored, and the reason for which another result is refused."""
    answers = await asyncio.gather(
        *(shadow.RecordEvaluation(pb.RecordEvaluationRequest(evaluation=each.evaluation)) for each in sent[:_REPEATS])
    )
    stored = sum(answer.recorded for answer in answers)
    changed = pb.Evaluation()
    changed.CopyFrom(sent[0].evaluation)
    changed.shadow_result.update({"limit": -1})
    reason = ""
    try:
        await shadow.RecordEvaluation(pb.RecordEvaluationRequest(evaluation=changed))
    except vsync.AlreadyExistsError as error:
        reason = error.reason
        screen.say(f"{stored} stored again; {error.reason}: {error.metadata['fields']}")
    return stored, reason


async def _search(shadow: Any, version: str) -> int:  # noqa: ANN401  as above
    """Returns the number of evaluations of a version that diverged, read page by page."""
    request = pb.SearchEvaluationsRequest(candidate=_candidate(version), diverged=True)
    _set_range(request)
    count = 0
    while True:
        answer = await shadow.SearchEvaluations(request)
        count += len(answer.evaluations)
        if not answer.next_page_token:
            return count
        request.page_token = answer.next_page_token


async def _summary(screen: Screen, shadow: Any, version: str) -> pb.GetDivergenceSummaryResponse:  # noqa: ANN401  as above
    request = pb.GetDivergenceSummaryRequest(candidate=_candidate(version))
    _set_range(request)
    summary: pb.GetDivergenceSummaryResponse = await shadow.GetDivergenceSummary(request)
    paths = ", ".join(f"{each.path} {each.evaluations:,}" for each in summary.paths)
    p95 = summary.shadow_latency.p95.ToMicroseconds() / 1000
    screen.say(f"version {version}: {summary.divergence_rate:.1%} diverged ({paths}), P95 {p95:.1f} ms")
    return summary


def _set_range(request: pb.SearchEvaluationsRequest | pb.GetDivergenceSummaryRequest) -> None:
    now = datetime.now(UTC)
    request.evaluated_after.FromDatetime(now - timedelta(days=1))
    request.evaluated_before.FromDatetime(now + timedelta(days=1))


def _candidate(version: str) -> pb.Candidate:
    return pb.Candidate(name="limits", version=version)


def _struct(value: dict[str, Any]) -> Struct:
    struct = Struct()
    struct.update(value)
    return struct
