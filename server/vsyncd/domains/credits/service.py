"""Implements CreditService: validates requests, calls the repositories and builds responses."""

from vsync.credits.v1 import credit_pb2 as pb
from vsync.credits.v1.credit_pb2_grpc import CreditServiceServicer

from vsyncd.core.context import Context
from vsyncd.core.validation import Validator
from vsyncd.domains.credits import messages
from vsyncd.domains.credits.accounts import AccountRepository
from vsyncd.domains.credits.ledger import Ledger
from vsyncd.domains.credits.records import Kind, NewTransaction
from vsyncd.postgres.mutations import MutationRequest, mutation_of
from vsyncd.postgres.tenancy import Tenancy


class CreditService(CreditServiceServicer):
    """See credit.proto for the methods. A reservation expires within `max_days`; 0: at any time."""

    def __init__(self, accounts: AccountRepository, ledger: Ledger, tenancy: Tenancy, *, max_days: int) -> None:
        self._accounts = accounts
        self._ledger = ledger
        self._tenancy = tenancy
        self._max_days = max_days

    async def OpenAccount(self, request: pb.OpenAccountRequest, context: Context) -> pb.OpenAccountResponse:
        validator = Validator()
        account = messages.read_account(validator, request.account)
        tenant = await self._tenancy.current()
        mutation = mutation_of(request, validator, account, tenant=tenant)
        return pb.OpenAccountResponse(account=messages.account_message(await self._accounts.open(mutation, account)))

    async def GetAccount(self, request: pb.GetAccountRequest, context: Context) -> pb.GetAccountResponse:
        validator = Validator()
        name = messages.read_account(validator, request.account)
        validator.raise_any()
        account = await self._accounts.get(name, tenant=await self._tenancy.current())
        return pb.GetAccountResponse(account=messages.account_message(account))

    async def ListAccounts(self, request: pb.ListAccountsRequest, context: Context) -> pb.ListAccountsResponse:
        validator = Validator()
        size = validator.page_size(request.page_size)
        validator.raise_any()
        tenant = await self._tenancy.current()
        after = messages.decode_account(request.page_token, tenant)
        page = await self._accounts.page(tenant=tenant, after=after, size=size)
        return pb.ListAccountsResponse(
            accounts=map(messages.account_message, page.accounts),
            next_page_token=messages.encode_account(page.next_after, tenant),
        )

    async def CloseAccount(self, request: pb.CloseAccountRequest, context: Context) -> pb.CloseAccountResponse:
        validator = Validator()
        account = messages.read_account(validator, request.account)
        tenant = await self._tenancy.current()
        mutation = mutation_of(request, validator, account, tenant=tenant)
        return pb.CloseAccountResponse(account=messages.account_message(await self._accounts.close(mutation, account)))

    async def Credit(self, request: pb.CreditRequest, context: Context) -> pb.CreditResponse:
        validator = Validator()
        amount = messages.read_amount(validator, request.amount)
        new = messages.read_transaction(request, Kind.CREDIT, validator, amount=amount)
        return pb.CreditResponse(transaction=await self._post(request, validator, new))

    async def Debit(self, request: pb.DebitRequest, context: Context) -> pb.DebitResponse:
        validator = Validator()
        amount = messages.read_amount(validator, request.amount)
        new = messages.read_transaction(request, Kind.DEBIT, validator, amount=amount)
        return pb.DebitResponse(transaction=await self._post(request, validator, new))

    async def Reserve(self, request: pb.ReserveRequest, context: Context) -> pb.ReserveResponse:
        validator = Validator()
        amount = messages.read_amount(validator, request.amount)
        expires_at = messages.read_expiry(validator, request, self._max_days)
        new = messages.read_transaction(request, Kind.RESERVE, validator, amount=amount, expires_at=expires_at)
        return pb.ReserveResponse(transaction=await self._post(request, validator, new))

    async def Capture(self, request: pb.CaptureRequest, context: Context) -> pb.CaptureResponse:
        validator = Validator()
        amount = messages.read_amount(validator, request.amount) if request.amount else None
        reservation_id = validator.uuid("reservation_id", request.reservation_id)
        new = messages.read_transaction(request, Kind.CAPTURE, validator, amount=amount, reservation_id=reservation_id)
        return pb.CaptureResponse(transaction=await self._post(request, validator, new))

    async def Release(self, request: pb.ReleaseRequest, context: Context) -> pb.ReleaseResponse:
        validator = Validator()
        reservation_id = validator.uuid("reservation_id", request.reservation_id)
        new = messages.read_transaction(request, Kind.RELEASE, validator, amount=None, reservation_id=reservation_id)
        return pb.ReleaseResponse(transaction=await self._post(request, validator, new))

    async def ListTransactions(
        self, request: pb.ListTransactionsRequest, context: Context
    ) -> pb.ListTransactionsResponse:
        validator = Validator()
        account = messages.read_account(validator, request.account)
        size = validator.page_size(request.page_size)
        validator.raise_any()
        tenant = await self._tenancy.current()
        below = messages.decode_number(request.page_token, tenant, account)
        page = await self._accounts.transactions(account, tenant=tenant, below=below, size=size)
        return pb.ListTransactionsResponse(
            transactions=map(messages.transaction_message, page.transactions),
            next_page_token=messages.encode_number(page.next_below, tenant, account),
        )

    async def _post(self, request: MutationRequest, validator: Validator, new: NewTransaction) -> pb.Transaction:
        tenant = await self._tenancy.current()
        mutation = mutation_of(request, validator, *new, tenant=tenant)
        return messages.transaction_message(await self._ledger.post(mutation, new))
