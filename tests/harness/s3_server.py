"""moto's S3 server as a child process."""

import contextlib
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import obstore
from obstore.store import S3Store
from vsyncd.backup.bucket import Bucket, BucketStore

_PROGRAM = "from moto.server import main; main(['-H', '127.0.0.1', '-p', '0'])"
_RUNNING = re.compile(r"Running on (http://\S+)")
KEY = "AKIAIOSFODNN7EXAMPLE"
SECRET = "not-a-secret-key"  # noqa: S105 - the server accepts any


class S3Server:
    """A running server with the bucket `backups`."""

    def __init__(self, process: "subprocess.Popen[str]", url: str) -> None:
        self.process = process
        self.url = url

    def bucket(self, prefix: str = "vsync") -> Bucket:
        """Returns the settings for a prefix in the bucket."""
        return Bucket(url=f"s3://backups/{prefix}", endpoint=self.url, access_key_id=KEY, secret_access_key=SECRET)

    def store(self, staging: Path, prefix: str = "vsync") -> BucketStore:
        """Returns a store for a prefix in the bucket."""
        return BucketStore(self.bucket(prefix), staging=staging)

    def raw(self, prefix: str = "vsync") -> S3Store:
        """Returns direct access to the objects."""
        return S3Store.from_url(
            f"s3://backups/{prefix}",
            endpoint=self.url,
            access_key_id=KEY,
            secret_access_key=SECRET,
            region="us-east-1",
            client_options={"allow_http": True},
        )

    def keys(self, prefix: str = "vsync") -> list[str]:
        """Returns the keys of all objects."""
        return sorted(each["path"] for objects in obstore.list(self.raw(prefix)) for each in objects)

    def kill(self) -> None:
        """Kill the server with SIGKILL."""
        self.process.kill()
        self.process.wait()


@contextlib.contextmanager
def s3_server(**environment: str) -> Iterator[S3Server]:
    """Runs a server while the context lasts."""
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", _PROGRAM],
        env=os.environ | environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    try:
        output = []
        for line in process.stderr:
            output.append(line)
            if found := _RUNNING.search(line):
                break
        else:
            raise AssertionError("".join(output))
        # Without a reader the pipe would fill up.
        reader = threading.Thread(target=process.stderr.read)
        reader.start()
        try:
            yield S3Server(process, found[1])
        finally:
            process.kill()
            reader.join()
    finally:
        process.kill()
        process.communicate()
