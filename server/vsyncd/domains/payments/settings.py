"""The settings of payments."""

from typing import Annotated, Final

from pydantic import Field

from vsyncd.config import Settings, types

ProcessorNames = Annotated[
    str,
    Field(pattern=r"^[a-z0-9_-]{1,50}( *, *[a-z0-9_-]{1,50})*$"),
    types.Takes("names of processors, comma separated: up to 50 lower case letters, digits, _ and - each"),
]


class PaymentSettings(Settings):
    """The settings of the service and of payments."""

    payment_processors: ProcessorNames = "default,fallback"
    """The payment processors: payments and health reports of any other are rejected."""
    payment_retention_days: types.Days = 0
    """Minimum retention of payments. Whole months are dropped; totals remain. 0: unlimited."""

    @property
    def processors(self) -> tuple[str, ...]:
        """The names in PAYMENT_PROCESSORS, sorted."""
        return tuple(sorted({name.strip() for name in self.payment_processors.split(",")}))


SETTINGS: Final = PaymentSettings
