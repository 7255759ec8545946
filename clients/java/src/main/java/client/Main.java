package client;

import com.google.protobuf.Any;
import com.google.protobuf.Duration;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.rpc.BadRequest;
import com.google.rpc.ErrorInfo;
import com.google.rpc.RetryInfo;
import io.grpc.ManagedChannel;
import io.grpc.StatusRuntimeException;
import io.grpc.protobuf.StatusProto;
import java.security.MessageDigest;
import java.time.LocalDate;
import java.time.ZoneOffset;
import java.util.HexFormat;
import java.util.List;
import java.util.UUID;
import java.util.concurrent.TimeUnit;
import vsyncd.vsync.v1.*;

/**
 * Creates a CID, processes it in a batch, and prints the error details if a call fails. Arguments: ISPB PHONE.
 *
 * <p>The environment variables are those of the command vsync: VSYNC_TARGET and others (Connection.java).
 */
public final class Main {
    public static void main(String[] arguments) throws Exception {
        ManagedChannel channel = Connection.open();
        try {
            run(channel, arguments[0], arguments[1]);
        } catch (StatusRuntimeException error) {
            printError(error);
            System.exit(1);
        } finally {
            channel.shutdownNow();
        }
    }

    private static void run(ManagedChannel channel, String ispb, String phone) throws Exception {
        var cids = CidServiceGrpc.newBlockingStub(channel).withDeadlineAfter(30, TimeUnit.SECONDS);
        var batches = SyncBatchServiceGrpc.newBlockingStub(channel).withDeadlineAfter(30, TimeUnit.SECONDS);
        // A real CID is the HMAC-SHA-256 of the entry in the directory.
        byte[] digest = MessageDigest.getInstance("SHA-256").digest((ispb + phone).getBytes());
        CidRecord record = CidRecord.newBuilder()
                .setCid(HexFormat.of().formatHex(digest)).setIspb(ispb)
                .setKeyType(KeyType.KEY_TYPE_PHONE).setKeyValue(phone).setTaxId("11122233300")
                .setBranch("0001").setAccountNumber("0007654321").setAccountType(AccountType.ACCOUNT_TYPE_CACC)
                .build();
        var created = cids.createCid(CreateCidRequest.newBuilder().setRecord(record).setRequestId(newId()).build());
        System.out.println("created " + created.getRecord().getCid());
        String today = LocalDate.now(ZoneOffset.UTC).toString();
        String id = batches.createSyncBatch(CreateSyncBatchRequest.newBuilder()
                .setIspb(ispb).setBatchDate(today).setRequestId(newId()).build()).getBatch().getId();
        var started = batches.startSyncBatch(
                StartSyncBatchRequest.newBuilder().setId(id).setRequestId(newId()).build());
        var claim = batches.claimSyncRecords(ClaimSyncRecordsRequest.newBuilder()
                .setBatchId(id).setWorkerId("java").setMaxRecords(1000)
                .setLeaseDuration(Duration.newBuilder().setSeconds(60)).setRequestId(newId()).build());
        System.out.println("claimed " + claim.getRecordsCount() + " of " + started.getBatch().getTotalRecords());
        var report = ReportSyncRecordsRequest.newBuilder().setClaimToken(claim.getClaimToken()).setRequestId(newId());
        for (var each : claim.getRecordsList()) {
            report.addResults(SyncResult.newBuilder()
                    .setCid(each.getCid()).setSyncStatus(SyncStatus.SYNC_STATUS_SYNCED));
        }
        batches.reportSyncRecords(report.build());
        SyncBatch completed = batches.completeSyncBatch(
                CompleteSyncBatchRequest.newBuilder().setId(id).setRequestId(newId()).build()).getBatch();
        System.out.println(completed.getStatus() + " synced " + completed.getSyncedRecords());
    }

    private static String newId() {
        return UUID.randomUUID().toString();
    }

    /** Prints the code and, from the details of the status, the reason, its metadata and the bad fields. */
    private static void printError(StatusRuntimeException error) throws InvalidProtocolBufferException {
        System.err.println(error.getStatus().getCode() + " " + error.getStatus().getDescription());
        var status = StatusProto.fromThrowable(error);
        for (Any detail : status == null ? List.<Any>of() : status.getDetailsList()) {
            if (detail.is(ErrorInfo.class)) {
                ErrorInfo info = detail.unpack(ErrorInfo.class);
                System.err.println("reason: " + info.getReason());
                info.getMetadataMap().forEach((name, value) -> System.err.println("metadata: " + name + "=" + value));
            } else if (detail.is(BadRequest.class)) {
                for (var bad : detail.unpack(BadRequest.class).getFieldViolationsList()) {
                    System.err.println("field: " + bad.getField() + " " + bad.getDescription());
                }
            } else if (detail.is(RetryInfo.class)) {
                System.err.println("retry after: " + detail.unpack(RetryInfo.class).getRetryDelay().getSeconds() + " s");
            }
        }
    }
}
