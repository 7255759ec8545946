"""A server that speaks S3, as a process of its own: moto's."""

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
SECRET = "not-a-secret-key"  # noqa: S105 - the server takes any


class S3Server:
    """A running server, with one bucket, `backups`."""

    def __init__(self, process: "subprocess.Popen[str]", url: str) -> None:
        self.process = process
        self.url = url

    def bucket(self, prefix: str = "vsync") -> Bucket:
        """A place in the bucket."""
        return Bucket(url=f"s3://backups/{prefix}", endpoint=self.url, access_key_id=KEY, secret_access_key=SECRET)

    def store(self, staging: Path, prefix: str = "vsync") -> BucketStore:
        """Where backups are kept there."""
        return BucketStore(self.bucket(prefix), staging=staging)

    def raw(self, prefix: str = "vsync") -> S3Store:
        """The objects themselves."""
        return S3Store.from_url(
            f"s3://backups/{prefix}",
            endpoint=self.url,
            access_key_id=KEY,
            secret_access_key=SECRET,
            region="us-east-1",
            client_options={"allow_http": True},
        )

    def keys(self, prefix: str = "vsync") -> list[str]:
        """What is there."""
        return sorted(each["path"] for objects in obstore.list(self.raw(prefix)) for each in objects)

    def kill(self) -> None:
        """As the power goes."""
        self.process.kill()
        self.process.wait()


@contextlib.contextmanager
def s3_server(**environment: str) -> Iterator[S3Server]:
    """A server for as long as the context lasts."""
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", _PROGRAM],
        env=os.environ | environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    try:
        seen = []
        for line in process.stderr:
            seen.append(line)
            if found := _RUNNING.search(line):
                break
        else:
            raise AssertionError("".join(seen))
        # A pipe that nobody reads would be full one day.
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
