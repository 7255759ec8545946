package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"os"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	_ "google.golang.org/grpc/health" // health checking of the service config
)

// bearer sends a key or a JWT with each call. gRPC refuses to send it without TLS.
type bearer string

func (token bearer) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + string(token)}, nil
}

func (bearer) RequireTransportSecurity() bool { return true }

// connect returns a connection with the retries and the health checking of the service config.
func connect() (*grpc.ClientConn, error) {
	config, err := os.ReadFile("../service-config.json")
	if err != nil {
		return nil, err
	}
	transport := insecure.NewCredentials()
	if os.Getenv("VSYNC_TLS_CA") != "" {
		settings, err := tlsConfig()
		if err != nil {
			return nil, err
		}
		transport = credentials.NewTLS(settings)
	}
	options := []grpc.DialOption{
		grpc.WithTransportCredentials(transport), grpc.WithDefaultServiceConfig(string(config)),
	}
	if path := os.Getenv("VSYNC_TOKEN_FILE"); path != "" {
		token, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		options = append(options, grpc.WithPerRPCCredentials(bearer(strings.TrimSpace(string(token)))))
	}
	return grpc.NewClient(os.Getenv("VSYNC_TARGET"), options...)
}

// tlsConfig trusts the authorities in VSYNC_TLS_CA and sends the certificate in VSYNC_TLS_CERT, if there is one.
func tlsConfig() (*tls.Config, error) {
	path := os.Getenv("VSYNC_TLS_CA")
	pem, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	config := &tls.Config{RootCAs: x509.NewCertPool(), ServerName: os.Getenv("VSYNC_TLS_SERVER_NAME")}
	if !config.RootCAs.AppendCertsFromPEM(pem) {
		return nil, errors.New("no certificate in " + path)
	}
	if certificate := os.Getenv("VSYNC_TLS_CERT"); certificate != "" {
		pair, err := tls.LoadX509KeyPair(certificate, os.Getenv("VSYNC_TLS_KEY"))
		if err != nil {
			return nil, err
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return config, nil
}
