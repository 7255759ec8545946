"""ShadowService of shadow.proto: validates messages, calls the repository, returns messages."""

from typing import Final
from uuid import UUID

from vsync.shadow.v1 import shadow_pb2 as pb
from vsync.shadow.v1.shadow_pb2_grpc import ShadowServiceServicer

from vsyncd.core.context import Context
from vsyncd.core.paging import decode_id_token, encode_id_token
from vsyncd.core.validation import Validator
from vsyncd.domains.shadow.messages import (
    Reader,
    content_of,
    message_of,
    new_message,
    read_candidate,
    read_filter,
    read_hours,
    recorded_message,
    summary_message,
)
from vsyncd.domains.shadow.records import IdPage
from vsyncd.domains.shadow.repository import EvaluationRepository
from vsyncd.domains.shadow.search import EvaluationSearch
from vsyncd.postgres.mutations import mutation_of

DEFAULT_PATHS: Final = 10
MAX_SUMMARY_PATHS: Final = 100
# The evaluations that are read at a time: together at most 2 MiB.
_READ_STEP: Final = 64
_PAGE_FRAME_BYTES: Final = 256
_ELEMENT_FRAME_BYTES: Final = 8


class ShadowService(ShadowServiceServicer):
    """Records and reads shadow evaluations. `tolerance` is the largest difference between equal numbers."""

    def __init__(
        self,
        repository: EvaluationRepository,
        search: EvaluationSearch,
        *,
        tolerance: float,
        max_response_bytes: int,
    ) -> None:
        self._repository = repository
        self._search = search
        self._reader = Reader(tolerance=tolerance)
        self._max_response_bytes = max_response_bytes

    async def RecordEvaluation(
        self, request: pb.RecordEvaluationRequest, context: Context
    ) -> pb.RecordEvaluationResponse:
        """See shadow.proto."""
        validator = Validator()
        new = self._reader.evaluation(validator, "evaluation", request.evaluation)
        resource = f"evaluations/{new.evaluation_id}"
        mutation = mutation_of(request, validator, *content_of(new, request.evaluation), resource=resource)
        result = await self._repository.record(mutation, new)
        message = new_message(request.evaluation, new) if result.stored is None else message_of(result.stored)
        return pb.RecordEvaluationResponse(evaluation=message, recorded=result.recorded)

    async def RecordEvaluations(
        self, request: pb.RecordEvaluationsRequest, context: Context
    ) -> pb.RecordEvaluationsResponse:
        """See shadow.proto."""
        validator = Validator()
        sent = request.evaluations if validator.batch("evaluations", request.evaluations) else ()
        new = [self._reader.evaluation(validator, f"evaluations[{at}]", each) for at, each in enumerate(sent)]
        ids = [each.evaluation_id if message.evaluation_id else None for each, message in zip(new, sent, strict=True)]
        validator.distinct(
            "evaluations", ids, "the same evaluation_id appears earlier in the request", ".evaluation_id"
        )
        content = [content_of(each, message) for each, message in zip(new, sent, strict=True)]
        results = await self._repository.record_many(mutation_of(request, validator, *content), new)
        return pb.RecordEvaluationsResponse(evaluations=map(recorded_message, results))

    async def GetEvaluation(self, request: pb.GetEvaluationRequest, context: Context) -> pb.GetEvaluationResponse:
        """See shadow.proto."""
        with Validator() as validator:
            evaluation_id = validator.uuid("evaluation_id", request.evaluation_id)
        return pb.GetEvaluationResponse(evaluation=message_of(await self._repository.get(evaluation_id)))

    async def SearchEvaluations(
        self, request: pb.SearchEvaluationsRequest, context: Context
    ) -> pb.SearchEvaluationsResponse:
        """See shadow.proto. A page ends early where the response would become too large."""
        with Validator() as validator:
            wanted = read_filter(validator, request)
            size = validator.page_size(request.page_size)
        scope = ("SearchEvaluations", *wanted)
        below = decode_id_token(request.page_token, *scope)
        page = await self._search.page(wanted if below is None else wanted._replace(below_id=below), size=size)
        messages, next_below = await self._fitting(page)
        return pb.SearchEvaluationsResponse(evaluations=messages, next_page_token=encode_id_token(next_below, *scope))

    async def GetDivergenceSummary(
        self, request: pb.GetDivergenceSummaryRequest, context: Context
    ) -> pb.GetDivergenceSummaryResponse:
        """See shadow.proto."""
        with Validator() as validator:
            candidate = read_candidate(validator, "candidate", request)
            begin, end = read_hours(validator, request)
            max_paths = validator.number("max_paths", request.max_paths, min_value=0, max_value=MAX_SUMMARY_PATHS)
        summary = await self._repository.summary(candidate, begin, end, max_paths=max_paths or DEFAULT_PATHS)
        return summary_message(summary, begin, end)

    async def _fitting(self, page: IdPage) -> tuple[list[pb.Evaluation], UUID | None]:
        """Returns the messages of the first evaluations that fit into a response, and where the next page begins."""
        messages: list[pb.Evaluation] = []
        free = self._max_response_bytes - _PAGE_FRAME_BYTES
        for at in range(0, len(page.ids), _READ_STEP):
            for stored in await self._repository.get_many(page.ids[at : at + _READ_STEP]):
                message = message_of(stored)
                free -= message.ByteSize() + _ELEMENT_FRAME_BYTES
                if free < 0 and messages:
                    return messages, UUID(messages[-1].evaluation_id)
                messages.append(message)
        return messages, page.next_below
