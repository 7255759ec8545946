// Command grpc_go calls vsyncd as a Go service does: stubs from the protos, mutual TLS or a key, and error details.
//
// It creates the CID whose record is in -record, reads it, and prints the outcome of both calls as JSON.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"

	vsyncv1 "vsyncd/vsync/v1"
)

// outcome is the result of a call. Reason, domain, metadata and fields are from the details of an error.
type outcome struct {
	Code     string            `json:"code"`
	Cid      string            `json:"cid"`
	Reason   string            `json:"reason"`
	Domain   string            `json:"domain"`
	Metadata map[string]string `json:"metadata"`
	Fields   []string          `json:"fields"`
}

// bearer sends a key with each call. gRPC refuses to send it without TLS.
type bearer string

func (key bearer) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + string(key)}, nil
}

func (bearer) RequireTransportSecurity() bool { return true }

func main() {
	target := flag.String("target", "", "host:port")
	serverName := flag.String("server-name", "", "name in the server's certificate")
	authority := flag.String("ca", "", "file of the certificate authority")
	certificate := flag.String("cert", "", "file of the client's certificate")
	key := flag.String("key", "", "file of the certificate's key")
	token := flag.String("token", "", "key that is sent with each call")
	record := flag.String("record", "", "record as JSON")
	flag.Parse()
	if err := run(*target, *serverName, *authority, *certificate, *key, *token, *record); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(target, serverName, authority, certificate, key, token, record string) error {
	config, err := tlsConfig(serverName, authority, certificate, key)
	if err != nil {
		return err
	}
	options := []grpc.DialOption{grpc.WithTransportCredentials(credentials.NewTLS(config))}
	if token != "" {
		options = append(options, grpc.WithPerRPCCredentials(bearer(token)))
	}
	connection, err := grpc.NewClient(target, options...)
	if err != nil {
		return err
	}
	defer connection.Close()
	created := &vsyncv1.CidRecord{}
	if err := protojson.Unmarshal([]byte(record), created); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cids := vsyncv1.NewCidServiceClient(connection)
	create, err := cids.CreateCid(ctx, &vsyncv1.CreateCidRequest{Record: created})
	first := outcomeOf(create.GetRecord().GetCid(), err)
	get, err := cids.GetCid(ctx, &vsyncv1.GetCidRequest{By: &vsyncv1.GetCidRequest_Cid{Cid: created.GetCid()}})
	return json.NewEncoder(os.Stdout).Encode([]outcome{first, outcomeOf(get.GetRecord().GetCid(), err)})
}

func tlsConfig(serverName, authority, certificate, key string) (*tls.Config, error) {
	pem, err := os.ReadFile(authority)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, errors.New("no certificate in " + authority)
	}
	config := &tls.Config{RootCAs: pool, ServerName: serverName, MinVersion: tls.VersionTLS12}
	if certificate != "" {
		pair, err := tls.LoadX509KeyPair(certificate, key)
		if err != nil {
			return nil, err
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return config, nil
}

func outcomeOf(cid string, err error) outcome {
	result := outcome{Code: status.Code(err).String(), Cid: cid}
	for _, detail := range status.Convert(err).Details() {
		switch detail := detail.(type) {
		case *errdetails.ErrorInfo:
			result.Reason, result.Domain, result.Metadata = detail.Reason, detail.Domain, detail.Metadata
		case *errdetails.BadRequest:
			for _, violation := range detail.FieldViolations {
				result.Fields = append(result.Fields, violation.Field)
			}
		}
	}
	return result
}
