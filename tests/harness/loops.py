"""The service's event loop, for tests."""

import warnings

import uvloop


class Loop(uvloop.Loop):
    """uvloop's event loop, which can be closed while handles are still open.

    uvloop warns about each open handle and then closes it. In tests a warning is an error. Raised there, it would leave
    the handle open, and uvloop would wait for it forever, without a timeout.
    """

    def close(self) -> None:
        """Closes everything, and then warns."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            super().close()
        for warning in caught:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
