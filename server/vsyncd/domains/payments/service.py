"""Implements PaymentService: validates requests, calls the repository and builds responses."""

from collections.abc import Sequence
from decimal import Decimal

from vsync.payments.v1 import payment_pb2 as pb
from vsync.payments.v1.payment_pb2_grpc import PaymentServiceServicer

from vsyncd.core.context import Context
from vsyncd.core.validation import Validator
from vsyncd.domains.payments import messages
from vsyncd.domains.payments.records import (
    MAX_CORRELATION_ID_CHARS,
    MAX_PROCESSOR_CHARS,
    PaymentFilter,
    ProcessorTotal,
)
from vsyncd.domains.payments.repository import PaymentRepository
from vsyncd.postgres.mutations import mutation_of


class PaymentService(PaymentServiceServicer):
    """See payment.proto for the methods. `processors` are the configured processors, sorted."""

    def __init__(self, repository: PaymentRepository, *, processors: Sequence[str]) -> None:
        self._repository = repository
        self._processors = processors

    async def StorePayment(self, request: pb.StorePaymentRequest, context: Context) -> pb.StorePaymentResponse:
        validator = Validator()
        new = messages.read_payment(request.payment, "payment.", validator, self._processors)
        mutation = mutation_of(request, validator, *new)
        payment, stored = await self._repository.store(mutation, new)
        return pb.StorePaymentResponse(payment=messages.payment_message(payment), stored=stored)

    async def BatchStorePayments(
        self, request: pb.BatchStorePaymentsRequest, context: Context
    ) -> pb.BatchStorePaymentsResponse:
        validator = Validator()
        new = []
        if validator.batch("payments", request.payments):
            new = [
                messages.read_payment(payment, f"payments[{index}].", validator, self._processors)
                for index, payment in enumerate(request.payments)
            ]
            validator.distinct(
                "payments",
                [each.correlation_id for each in new],
                "the same correlation_id appears earlier in the request",
                ".correlation_id",
            )
        mutation = mutation_of(request, validator, *map(tuple, new))
        results = await self._repository.store_batch(mutation, new)
        return pb.BatchStorePaymentsResponse(
            results=[pb.StoredPayment(payment=messages.payment_message(each[0]), stored=each[1]) for each in results]
        )

    async def GetPayment(self, request: pb.GetPaymentRequest, context: Context) -> pb.GetPaymentResponse:
        with Validator() as validator:
            selector = validator.one_of("selector", request.WhichOneof("selector"), ("id", "correlation_id"))
            identifier, correlation_id = None, ""
            if selector == "id":
                identifier = validator.uuid("id", request.id)
            elif selector:
                correlation_id = validator.text(
                    "correlation_id", request.correlation_id, max_chars=MAX_CORRELATION_ID_CHARS
                )
        payment = await self._repository.get(identifier=identifier, correlation_id=correlation_id)
        return pb.GetPaymentResponse(payment=messages.payment_message(payment))

    async def ListPayments(self, request: pb.ListPaymentsRequest, context: Context) -> pb.ListPaymentsResponse:
        with Validator() as validator:
            # Payments of a processor that is no longer configured can be listed, too.
            processor = validator.text("processor", request.processor, min_chars=0, max_chars=MAX_PROCESSOR_CHARS)
            selected = PaymentFilter(processor or None, *messages.read_processed_range(request, validator))
            size = validator.page_size(request.page_size)
        scope = ("ListPayments", *selected)
        after = messages.decode_position(request.page_token, *scope)
        page = await self._repository.page(selected, after=after, size=size)
        return pb.ListPaymentsResponse(
            payments=map(messages.payment_message, page.payments),
            next_page_token=messages.encode_position(page.next_after, *scope),
        )

    async def GetPaymentsSummary(
        self, request: pb.GetPaymentsSummaryRequest, context: Context
    ) -> pb.GetPaymentsSummaryResponse:
        with Validator() as validator:
            begins, ends = messages.read_processed_range(request, validator)
        none = {name: ProcessorTotal(name, 0, Decimal(0)) for name in self._processors}
        found = {total.processor: total for total in await self._repository.summary(begins, ends)}
        totals = sorted((none | found).values())
        return pb.GetPaymentsSummaryResponse(
            processors=[
                pb.ProcessorSummary(
                    processor=total.processor, payments=total.payments, amount=messages.amount_text(total.amount)
                )
                for total in totals
            ],
            total_payments=sum(total.payments for total in totals),
            total_amount=messages.amount_text(sum((total.amount for total in totals), Decimal(0))),
        )
