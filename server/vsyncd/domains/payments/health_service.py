"""Implements ProcessorHealthService: validates requests, calls the repository and builds responses."""

from collections.abc import AsyncIterator, Sequence

from vsync.payments.v1 import processor_health_pb2 as pb
from vsync.payments.v1.processor_health_pb2_grpc import ProcessorHealthServiceServicer

from vsyncd.core.context import Context
from vsyncd.core.validation import Validator
from vsyncd.domains.payments.health_repository import HealthRepository
from vsyncd.domains.payments.health_watcher import HealthWatcher
from vsyncd.domains.payments.messages import health_message, read_processor
from vsyncd.domains.payments.records import MAX_RESPONSE_TIME_MS
from vsyncd.postgres.mutations import mutation_of


class ProcessorHealthService(ProcessorHealthServiceServicer):
    """See processor_health.proto for the methods. `processors` are the configured processors, sorted."""

    def __init__(self, repository: HealthRepository, watcher: HealthWatcher, *, processors: Sequence[str]) -> None:
        self._repository = repository
        self._watcher = watcher
        self._processors = processors

    async def ReportProcessorHealth(
        self, request: pb.ReportProcessorHealthRequest, context: Context
    ) -> pb.ReportProcessorHealthResponse:
        validator = Validator()
        processor = read_processor(validator, "processor", request.processor, self._processors)
        response_time = validator.number(
            "min_response_time_ms", request.min_response_time_ms, min_value=0, max_value=MAX_RESPONSE_TIME_MS
        )
        mutation = mutation_of(request, validator, processor, request.healthy, response_time)
        health = await self._repository.report(
            mutation, processor, healthy=request.healthy, min_response_time_ms=response_time
        )
        return pb.ReportProcessorHealthResponse(health=health_message(health))

    async def GetProcessorHealth(
        self, request: pb.GetProcessorHealthRequest, context: Context
    ) -> pb.GetProcessorHealthResponse:
        with Validator() as validator:
            processor = read_processor(validator, "processor", request.processor, self._processors)
        return pb.GetProcessorHealthResponse(health=health_message(await self._repository.get(processor)))

    async def WatchProcessorHealth(
        self, request: pb.WatchProcessorHealthRequest, context: Context
    ) -> AsyncIterator[pb.WatchProcessorHealthResponse]:
        with Validator() as validator:
            for index, name in enumerate(request.processors):
                read_processor(validator, f"processors[{index}]", name, self._processors)
        processors = [name for name in self._processors if name in request.processors or not request.processors]
        async for changed in self._watcher.watch(processors):
            yield pb.WatchProcessorHealthResponse(processors=map(health_message, changed))
