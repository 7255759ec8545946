"""The settings of credits."""

from typing import Final

from vsyncd.config import Settings, types


class CreditSettings(Settings):
    """The settings of the service and of credits."""

    credit_reservation_max_days: types.Days = 90
    """Maximum number of days until a reservation of credits expires. 0: unlimited."""


SETTINGS: Final = CreditSettings
