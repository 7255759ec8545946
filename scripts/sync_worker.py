"""A worker process of a synchronisation: claims records under a lease, queries the directory, and reports.

    python -m scripts.sync_worker --target localhost:50051 --batch ID --name worker-1

It prints its events to standard output, one JSON object per line.
"""

import argparse
import json
import signal
import sys
import time
from collections.abc import Sequence

from google.protobuf.duration_pb2 import Duration
from vsync import SyncClient, connect_sync
from vsync.v1 import cid_pb2, sync_batch_pb2

_POLL_SECONDS = 0.5


def verdict(cid: str) -> str:
    """Simulates the directory's answer: an error, or an empty text. About one CID in 500 fails."""
    return "the directory has no such entry" if int(cid[:8], 16) % 500 == 0 else ""


class Worker:
    """One worker."""

    def __init__(self, client: SyncClient, *, batch_id: str, name: str, size: int, lease: int) -> None:
        self._client = client
        self._batch_id = batch_id
        self._name = name
        self._size = size
        self._lease = lease

    def run(self, *, hang: bool) -> None:
        """Works until every record of the batch has a result. With `hang` the first claim is never reported."""
        while True:
            claim = self._claim()
            if claim.records:
                _say(event="claimed", records=len(claim.records), token=claim.claim_token, cid=claim.records[0].cid)
                while hang:
                    signal.pause()
                self._report(claim)
            elif self._finished():
                return
            else:
                # Other workers hold the remaining records. Unreported records can be claimed after their lease ends.
                time.sleep(_POLL_SECONDS)

    def _finished(self) -> bool:
        request = sync_batch_pb2.GetSyncBatchRequest(id=self._batch_id)
        batch = self._client.batches.GetSyncBatch(request).batch
        return batch.synced_records + batch.failed_records + batch.skipped_records == batch.total_records

    def _claim(self) -> sync_batch_pb2.ClaimSyncRecordsResponse:
        request = sync_batch_pb2.ClaimSyncRecordsRequest(
            batch_id=self._batch_id,
            worker_id=self._name,
            max_records=self._size,
            lease_duration=Duration(seconds=self._lease),
        )
        return self._client.batches.ClaimSyncRecords(request)

    def _report(self, claim: sync_batch_pb2.ClaimSyncRecordsResponse) -> None:
        results = [_result(record.cid) for record in claim.records]
        request = sync_batch_pb2.ReportSyncRecordsRequest(claim_token=claim.claim_token, results=results)
        outcomes = [outcome.outcome for outcome in self._client.batches.ReportSyncRecords(request).outcomes]
        applied = outcomes.count(sync_batch_pb2.REPORT_OUTCOME_APPLIED)
        _say(event="reported", applied=applied, stale=len(outcomes) - applied)


def _result(cid: str) -> sync_batch_pb2.SyncResult:
    error = verdict(cid)
    status = cid_pb2.SYNC_STATUS_FAILED if error else cid_pb2.SYNC_STATUS_SYNCED
    return sync_batch_pb2.SyncResult(cid=cid, sync_status=status, error=error)


def _say(**fields: object) -> None:
    sys.stdout.write(json.dumps(fields) + "\n")
    sys.stdout.flush()


def main(arguments: Sequence[str]) -> None:
    """Run a worker with the given arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", required=True, help="the server, host:port")
    parser.add_argument("--batch", required=True, help="the batch's id")
    parser.add_argument("--name", required=True, help="the worker's name")
    parser.add_argument("--size", type=int, default=1000, help="records per claim")
    parser.add_argument("--lease", type=int, default=5, help="duration of a lease in seconds")
    parser.add_argument("--hang", action="store_true", help="never report the first claim")
    given = parser.parse_args(arguments)
    with connect_sync(given.target) as client:
        worker = Worker(client, batch_id=given.batch, name=given.name, size=given.size, lease=given.lease)
        worker.run(hang=given.hang)


if __name__ == "__main__":
    main(sys.argv[1:])
