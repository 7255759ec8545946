"""Ends by a signal: on the way out that Ctrl-C takes, so that what is half done is cleared away."""

import signal
from types import FrameType

# Those of these that the system has.
_ENDING = [number for number in signal.Signals if number.name in {"SIGTERM", "SIGHUP"}]


def end_by_signals() -> None:
    """From now on SIGTERM and SIGHUP raise SystemExit, with 128 and their number, in the main thread.

    What is ignored, as under nohup, stays so.
    """
    ours = [number for number in _ENDING if signal.getsignal(number) is not signal.SIG_IGN]

    def end(number: int, _frame: FrameType | None) -> None:
        # A terminal that is closed sends several: the first has begun to clear away, and is not to be interrupted.
        for each in ours:
            signal.signal(each, signal.SIG_IGN)
        raise SystemExit(128 + number)

    for each in ours:
        signal.signal(each, end)
