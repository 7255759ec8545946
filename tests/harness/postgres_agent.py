"""Runs PostgreSQL's programs for a test, as the user they have to run as: `python -m tests.harness.postgres_agent`.

A process of its own: starting a program as someone else forks, which a process that speaks gRPC must not. It reads
commands as JSON, a line each, and answers likewise; when its input ends, it kills what it started.
"""

import json
import signal
import subprocess
import sys
from pathlib import Path

from vsyncd.embedded.account import account_for
from vsyncd.embedded.binaries import reachable_binaries


def main(folder: Path) -> None:
    """`{"run": [program, ...]}` waits for its end; `{"spawn": [program, ...], "log": path}` answers with its pid."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the whole group gets it, and the servers are ours to end
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
                child.poll()  # no zombies
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
