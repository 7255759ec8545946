"""The settings of the domain `shadow`."""

from typing import Annotated, Final

from pydantic import Field

from vsyncd.config import Settings, types

Tolerance = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False), types.Takes("a number from 0 to 1")]


class ShadowSettings(Settings):
    """The settings of shadow evaluations."""

    shadow_retention_days: types.Days = 0
    """Minimum retention of shadow evaluations and their rollups. Whole months are dropped. 0: unlimited."""
    shadow_numeric_tolerance: Tolerance = 1e-9
    """Maximum difference, absolute or relative to the larger number, at which two numbers of results are equal."""


SETTINGS: Final = ShadowSettings
