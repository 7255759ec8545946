"""Decides when a lost stream is opened again and how long each message may take. Performs no I/O.

This is the only mechanism that retries streams: the channel's service config excludes them from gRPC's own retries.
"""

import random
import time
from collections.abc import Callable

import grpc

from vsync.errors import CallError, ContentionError, DeadlineExceededError, OverloadedError, UnavailableError

OnReconnect = Callable[[CallError, float], None]
"""Called when a stream is lost, with the error and the seconds until the next attempt."""

DEFAULT_RECONNECT_TIMEOUT_S = 60.0
MIN_DELAY_S = 0.2
MAX_DELAY_S = 2.0
# Limits of the wait for the first message of an attempt. Each attempt that times out doubles the wait, so that a slow
# server is reached, too.
MIN_FIRST_MESSAGE_S = 1.0
MAX_FIRST_MESSAGE_S = 10.0
_ATTEMPTS = 6
# The limit for each message if the reconnect timeout is 0, which means one attempt.
SINGLE_ATTEMPT_S = 20.0
# gRPC itself sends these codes when a connection breaks or a proxy resets a stream. A status with a reason comes from
# the server.
_BROKEN_STREAM = frozenset({grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.CANCELLED})
_TRANSIENT = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED})


def is_transient(error: CallError) -> bool:
    """Returns whether a new attempt may succeed."""
    if error.code in _BROKEN_STREAM:
        return not error.reason
    return error.code in _TRANSIENT or isinstance(error, OverloadedError | ContentionError)


def message_timeout(seconds: float) -> DeadlineExceededError:
    """Returns the error of an attempt that received no message within its limit."""
    return DeadlineExceededError(grpc.StatusCode.DEADLINE_EXCEEDED, f"The server sent no message for {seconds:.1f} s.")


def stream_ended() -> UnavailableError:
    """Returns the error of an endless stream that the server ended."""
    return UnavailableError(grpc.StatusCode.UNAVAILABLE, "The server ended the stream.")


class Reconnect:
    """Measures the time without progress of one stream, over all its attempts.

    `timeout`: the seconds without progress after which the stream fails. Only waits for the server count, not the time
    that the caller spends on a message. 0: one attempt.
    `max_silence`: the seconds for which a healthy server may send nothing on an open stream. Such silence is not
    counted. None: every wait is counted.
    """

    def __init__(
        self, timeout: float, *, max_silence: float | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._timeout = timeout
        self._max_silence = max_silence
        self._clock = clock
        self._resumable = True
        self._open = False
        self._wait_began = 0.0
        self._wait_limit = 0.0
        self._waited = 0.0
        self._delay = MIN_DELAY_S
        self._first_message = MIN_FIRST_MESSAGE_S
        self._reset()

    def begin_attempt(self) -> None:
        """Begins an attempt, whose first message has its own time limit."""
        self._open = False

    def begin_wait(self) -> float:
        """Begins to wait for a message. Returns its limit in seconds, which can be infinite."""
        left = (self._timeout or SINGLE_ATTEMPT_S) - self._waited
        if not self._open:
            limit = min(self._first_message, left) if self._timeout else left
        else:
            limit = left if self._max_silence is None else self._max_silence
        self._wait_began = self._clock()
        self._wait_limit = max(limit, 0.0)
        return self._wait_limit

    def end_wait(self) -> None:
        """Ends a wait, with or without a message."""
        waited = self._clock() - self._wait_began
        if not self._open or self._max_silence is None:
            self._waited += waited
        if not self._open and waited >= self._wait_limit:
            self._first_message *= 2

    def received(self, *, progress: bool = True) -> None:
        """Records a message. One without progress only opens the stream."""
        self._open = True
        if progress:
            self._reset()

    def disable(self) -> None:
        """Makes every later error final, because the stream cannot be resumed."""
        self._resumable = False

    def delay_after(self, error: CallError, on_reconnect: OnReconnect | None = None) -> float:
        """Returns the seconds to wait before the next attempt: the server's retry delay, or else exponential backoff.

        The delay is at most half of the time left, so that there are attempts until the timeout. Calls `on_reconnect`.
        Raises the error if it is not transient or no time is left.
        """
        left = self._timeout - self._waited
        if not (self._resumable and is_transient(error)) or left < MIN_DELAY_S:
            raise error
        delay = self._delay if error.retry_after is None else error.retry_after
        self._delay = min(2 * self._delay, MAX_DELAY_S)
        # Jitter, so that the clients of a restarted server do not return at the same time.
        delay = min(delay * random.uniform(0.8, 1.2), left / 2)  # noqa: S311 - no secret
        self._waited += delay
        if on_reconnect is not None:
            on_reconnect(error, delay)
        return delay

    def _reset(self) -> None:
        self._waited = 0.0
        self._delay = MIN_DELAY_S
        self._first_message = min(max(self._timeout / _ATTEMPTS, MIN_FIRST_MESSAGE_S), MAX_FIRST_MESSAGE_S)
