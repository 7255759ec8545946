// Command client creates a CID, processes it in a batch, and prints the error details if a call fails.
//
//	client ISPB PHONE
//
// The environment variables are those of the command vsync: VSYNC_TARGET and others (connect.go).
package main

//go:generate buf generate ../..

import (
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"time"

	"github.com/google/uuid"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	vsyncv1 "vsyncd/vsync/v1"
)

func main() {
	if err := run(os.Args[1], os.Args[2]); err != nil {
		printError(err)
		os.Exit(1)
	}
}

func run(ispb, phone string) error {
	connection, err := connect()
	if err != nil {
		return err
	}
	defer connection.Close()
	cids, batches := vsyncv1.NewCidServiceClient(connection), vsyncv1.NewSyncBatchServiceClient(connection)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()

	// A real CID is the HMAC-SHA-256 of the entry in the directory.
	record := &vsyncv1.CidRecord{
		Cid: fmt.Sprintf("%x", sha256.Sum256([]byte(ispb+phone))), Ispb: ispb,
		KeyType: vsyncv1.KeyType_KEY_TYPE_PHONE, KeyValue: phone, TaxId: "11122233300",
		Branch: proto.String("0001"), AccountNumber: "0007654321", AccountType: vsyncv1.AccountType_ACCOUNT_TYPE_CACC,
	}
	created, err := cids.CreateCid(ctx, &vsyncv1.CreateCidRequest{Record: record, RequestId: uuid.NewString()})
	if err != nil {
		return err
	}
	fmt.Println("created", created.Record.Cid)
	today := time.Now().UTC().Format(time.DateOnly)
	batch, err := batches.CreateSyncBatch(ctx, &vsyncv1.CreateSyncBatchRequest{
		Ispb: ispb, BatchDate: today, RequestId: uuid.NewString()})
	if err != nil {
		return err
	}
	id := batch.Batch.Id
	started, err := batches.StartSyncBatch(ctx, &vsyncv1.StartSyncBatchRequest{Id: id, RequestId: uuid.NewString()})
	if err != nil {
		return err
	}
	claim, err := batches.ClaimSyncRecords(ctx, &vsyncv1.ClaimSyncRecordsRequest{
		BatchId: id, WorkerId: "go", MaxRecords: 1000, LeaseDuration: durationpb.New(time.Minute),
		RequestId: uuid.NewString()})
	if err != nil {
		return err
	}
	fmt.Println("claimed", len(claim.Records), "of", started.Batch.TotalRecords)
	report := &vsyncv1.ReportSyncRecordsRequest{ClaimToken: claim.ClaimToken, RequestId: uuid.NewString()}
	for _, each := range claim.Records {
		report.Results = append(report.Results,
			&vsyncv1.SyncResult{Cid: each.Cid, SyncStatus: vsyncv1.SyncStatus_SYNC_STATUS_SYNCED})
	}
	if _, err := batches.ReportSyncRecords(ctx, report); err != nil {
		return err
	}
	completed, err := batches.CompleteSyncBatch(ctx,
		&vsyncv1.CompleteSyncBatchRequest{Id: id, RequestId: uuid.NewString()})
	if err != nil {
		return err
	}
	fmt.Println(completed.Batch.Status, "synced", completed.Batch.SyncedRecords)
	return nil
}

// printError prints the code and, from the details of the status, the reason, its metadata and the bad fields.
func printError(err error) {
	failure := status.Convert(err)
	fmt.Fprintln(os.Stderr, failure.Code(), failure.Message())
	for _, detail := range failure.Details() {
		switch detail := detail.(type) {
		case *errdetails.ErrorInfo:
			fmt.Fprintln(os.Stderr, "reason:", detail.Reason)
			for name, value := range detail.Metadata {
				fmt.Fprintf(os.Stderr, "metadata: %s=%s\n", name, value)
			}
		case *errdetails.BadRequest:
			for _, bad := range detail.FieldViolations {
				fmt.Fprintln(os.Stderr, "field:", bad.Field, bad.Description)
			}
		case *errdetails.RetryInfo:
			fmt.Fprintln(os.Stderr, "retry after:", detail.RetryDelay.AsDuration())
		}
	}
}
