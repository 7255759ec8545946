"""Decides when a lost stream is opened again and how long each message may take. Performs no I/O.

This is the only mechanism that retries streams: the channel's service config excludes them from gRPC's own retries.
"""

import random
import time
from collections.abc import Callable

import grpc

from vsync.errors import CallError, Contention, DeadlineExceeded, Overloaded, Unavailable
from vsync.rpc_status import RpcStatus

OnWait = Callable[[CallError, float], None]
"""Called after each loss of a stream with the error and the seconds until the next attempt."""

DEFAULT_PATIENCE_S = 60.0
MIN_DELAY_S = 0.2
MAX_DELAY_S = 2.0
# The first message of an attempt. Each attempt that times out doubles the limit, so that a slow server is reached too.
MIN_FIRST_MESSAGE_S = 1.0
MAX_FIRST_MESSAGE_S = 10.0
_ATTEMPTS = 6
# Limit for each message when the patience is 0, which means "one attempt".
SINGLE_ATTEMPT_S = 20.0
# gRPC itself sends these codes when a connection breaks or a proxy resets a stream. With a reason they are the
# server's own answer.
_BROKEN_STREAM = frozenset({grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.CANCELLED})
_TRANSIENT = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED})


def ignore_wait(_error: CallError, _delay: float) -> None:
    """Does nothing: the default OnWait."""


def is_transient(error: CallError) -> bool:
    """Returns whether the same stream may succeed later."""
    if error.code in _BROKEN_STREAM:
        return not error.reason
    return error.code in _TRANSIENT or isinstance(error, Overloaded | Contention)


def no_message(seconds: float) -> DeadlineExceeded:
    """The error of an attempt that received no message in time."""
    message = f"The server sent no message for {seconds:.1f} s."
    return DeadlineExceeded(RpcStatus(code=grpc.StatusCode.DEADLINE_EXCEEDED, message=message))


def ended() -> Unavailable:
    """The error of a stream that has no end of its own, but was ended by the server."""
    return Unavailable(RpcStatus(code=grpc.StatusCode.UNAVAILABLE, message="The server ended the stream."))


class Reconnect:
    """The time without progress of one stream, over all its attempts.

    `patience`: seconds without progress after which the stream fails; only waiting for the server counts, not the time
    that the caller spends on a message. 0: one attempt, no reconnection.
    `quiet`: seconds for which a healthy server may send nothing on an open stream. This silence does not use up the
    patience. None: every wait does.
    """

    def __init__(
        self, patience: float, *, quiet: float | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._patience = patience
        self._quiet = quiet
        self._clock = clock
        self._resumable = True
        self._open = False
        self._spent = 0.0
        self._delay = MIN_DELAY_S
        self._first_message = MIN_FIRST_MESSAGE_S
        self._wait_began = 0.0
        self._wait_limit = 0.0
        self._reset()

    def begin_attempt(self) -> None:
        """A call is about to be made: its first message has a limit of its own."""
        self._open = False

    def begin_wait(self) -> float:
        """Starts to wait for a message. Returns the seconds that it may take, which can be infinite."""
        left = (self._patience or SINGLE_ATTEMPT_S) - self._spent
        if not self._open:
            limit = min(self._first_message, left) if self._patience else left
        else:
            limit = left if self._quiet is None else self._quiet
        self._wait_began = self._clock()
        self._wait_limit = max(limit, 0.0)
        return self._wait_limit

    def end_wait(self) -> None:
        """The wait is over, with a message or without."""
        waited = self._clock() - self._wait_began
        if not self._open or self._quiet is None:
            self._spent += waited
        if not self._open and waited >= self._wait_limit:
            self._first_message *= 2

    def received(self, *, progress: bool = True) -> None:
        """A message arrived. Without progress it only opens the stream: what followed may be lost again and again."""
        self._open = True
        if progress:
            self._reset()

    def forbid(self) -> None:
        """From now on every loss is final: the stream cannot be resumed."""
        self._resumable = False

    def delay_after(self, error: CallError) -> float:
        """Returns the seconds to wait before the next attempt: what the server asks for, else exponential backoff.

        Never more than half of the time that is left, so that the end of the patience sees attempts, too. Raises the
        error itself when it is not transient, or when the time is used up.
        """
        left = self._patience - self._spent
        if not (self._resumable and is_transient(error)) or left < MIN_DELAY_S:
            raise error
        delay = self._delay if error.retry_after is None else error.retry_after
        self._delay = min(2 * self._delay, MAX_DELAY_S)
        # Jitter, so that the clients of a restarted server do not all return at once.
        delay = min(delay * random.uniform(0.8, 1.2), left / 2)  # noqa: S311 - no secret
        self._spent += delay
        return delay

    def _reset(self) -> None:
        self._spent = 0.0
        self._delay = MIN_DELAY_S
        self._first_message = min(max(self._patience / _ATTEMPTS, MIN_FIRST_MESSAGE_S), MAX_FIRST_MESSAGE_S)
