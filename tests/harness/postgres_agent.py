"""Runs PostgreSQL's programs for tests, as the required user: `python -m tests.harness.postgres_agent`.

It is a separate process, because starting a program as another user forks, and a process that uses gRPC must not fork.
It reads one JSON command per line and writes one JSON answer per line. At the end of its input it kills the programs
that it started.
"""

import json
import signal
import subprocess
import sys
from pathlib import Path

from vsyncd.embedded.account import account_for
from vsyncd.embedded.postgres import reachable_binaries


def main(folder: Path) -> None:
    """`{"run": [program, ...]}` waits for its exit; `{"spawn": [program, ...], "log": path}` returns its pid."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # sent to the whole process group; the servers are stopped below
    account = account_for(folder / "none")
    account.chown(folder)
    binaries = reachable_binaries(version=18, account=account, data_dir=folder)
    children: list[subprocess.Popen[bytes]] = []
    for line in sys.stdin:
        command = json.loads(line)
        program, *arguments = command.get("run") or command["spawn"]
        if "run" in command:
            path = binaries / program if (binaries / program).exists() else Path(program)
            done = account.run([path, *arguments], cwd=folder)
            answer = {"code": done.returncode, "output": done.stdout}
        else:
            for child in children:
                child.poll()  # reaps zombies
            with Path(command["log"]).open("ab") as log:
                child = account.spawn(
                    [binaries / program, *arguments], cwd=folder, stdin=subprocess.DEVNULL, output=log
                )
            children.append(child)
            answer = {"pid": child.pid}
        print(json.dumps(answer), flush=True)  # noqa: T201  this is how it answers
    for child in children:
        child.send_signal(signal.SIGQUIT)
    for child in children:
        try:
            child.wait(timeout=5)
        except subprocess.TimeoutExpired:
            child.kill()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
