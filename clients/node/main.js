// Creates a CID, processes it in a batch, and prints the error details if a call fails: node main.js ISPB PHONE
//
// The environment variables are those of the command vsync: VSYNC_TARGET and others (connect.js).
import { createHash, randomUUID } from 'node:crypto';
import { connect, errorDetails } from './connect.js';

async function run(ispb, phone) {
  const [cids, batches] = [connect('CidService'), connect('SyncBatchService')];
  // A real CID is the HMAC-SHA-256 of the entry in the directory.
  const record = {
    cid: createHash('sha256').update(ispb + phone).digest('hex'), ispb,
    key_type: 'KEY_TYPE_PHONE', key_value: phone, tax_id: '11122233300',
    branch: '0001', account_number: '0007654321', account_type: 'ACCOUNT_TYPE_CACC',
  };
  const created = await cids.CreateCid({ record, request_id: randomUUID() });
  console.log('created', created.record.cid);
  const today = new Date().toISOString().slice(0, 10);
  const { batch: { id } } = await batches.CreateSyncBatch({ ispb, batch_date: today, request_id: randomUUID() });
  const started = await batches.StartSyncBatch({ id, request_id: randomUUID() });
  const claim = await batches.ClaimSyncRecords({
    batch_id: id, worker_id: 'node', max_records: 1000, lease_duration: { seconds: 60 }, request_id: randomUUID(),
  });
  console.log('claimed', claim.records.length, 'of', started.batch.total_records);
  const results = claim.records.map(({ cid }) => ({ cid, sync_status: 'SYNC_STATUS_SYNCED' }));
  await batches.ReportSyncRecords({ claim_token: claim.claim_token, results, request_id: randomUUID() });
  const { batch } = await batches.CompleteSyncBatch({ id, request_id: randomUUID() });
  console.log(batch.status, 'synced', batch.synced_records);
}

// Prints the code and, from the details of the status, the reason, its metadata and the bad fields.
function printError(error) {
  console.error(error.message);
  const { ErrorInfo, BadRequest, RetryInfo } = errorDetails(error);
  if (ErrorInfo) console.error('reason:', ErrorInfo.reason);
  // A map that was loaded from a descriptor set is an array of its entries.
  for (const { key, value } of ErrorInfo?.metadata ?? []) console.error(`metadata: ${key}=${value}`);
  for (const bad of BadRequest?.field_violations ?? []) console.error('field:', bad.field, bad.description);
  if (RetryInfo) console.error('retry after:', RetryInfo.retry_delay.seconds, 's');
}

try {
  await run(...process.argv.slice(2));
} catch (error) {
  printError(error);
  process.exitCode = 1;
}
