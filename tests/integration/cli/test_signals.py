"""SIGHUP reloads files. If the terminal was closed, it stops the process instead."""

import signal
import subprocess
import sys

SERVICE = """
import asyncio
from vsyncd.signals import StopSignals

async def main():
    signals = StopSignals(timeout=60)
    signals.on_reload = lambda: print("reloaded", flush=True)
    print("ready", flush=True)
    await signals.wait()

asyncio.run(main())
"""
# Runs the program of its argument in a terminal, sends SIGHUP, closes the terminal, and prints the exit code.
TERMINAL = """
import os, pty, signal, sys

pid, terminal = pty.fork()
if pid == 0:
    os.execv(sys.executable, [sys.executable, "-c", sys.argv[1]])
shown = b""
for wanted in (b"ready", b"reloaded"):
    while wanted not in shown:
        shown += os.read(terminal, 1000)
    if wanted == b"ready":
        os.kill(pid, signal.SIGHUP)
os.close(terminal)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


def test_sighup_reloads() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SERVICE], stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        for _ in range(2):
            process.send_signal(signal.SIGHUP)
            while (line := process.stdout.readline()) != "reloaded\n":
                assert line, "the process ended"
        process.terminate()
        assert process.wait(60) == 0


def test_a_closed_terminal_stops_the_process() -> None:
    done = subprocess.run(
        [sys.executable, "-c", TERMINAL, SERVICE], capture_output=True, text=True, timeout=120, check=True
    )
    # 120: without PYTHONUNBUFFERED, Python reports that it could not write its last lines to the closed terminal.
    assert done.stdout in {"0\n", "120\n"}
