"""The event loop that the service runs on, and a test that fails ends."""

import warnings

import uvloop


class Loop(uvloop.Loop):
    """uvloop's, which can be closed whatever a test has left open.

    uvloop warns of each handle that is open still, and then closes it. The tests' warnings are errors: one that is
    raised there leaves the handle open, and uvloop waits for it forever, where no timeout of Python's ends it.
    """

    def close(self) -> None:
        """Close everything, and warn then."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            super().close()
        for warning in caught:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
