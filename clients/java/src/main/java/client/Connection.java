package client;

import com.google.gson.Gson;
import io.grpc.ChannelCredentials;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import io.grpc.Metadata;
import io.grpc.TlsChannelCredentials;
import io.grpc.stub.MetadataUtils;
import java.io.File;
import java.io.IOException;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Map;

/** Opens a channel with the retries and the health checking of the service config. */
final class Connection {
    private static final Metadata.Key<String> AUTHORIZATION =
            Metadata.Key.of("authorization", Metadata.ASCII_STRING_MARSHALLER);

    static ManagedChannel open() throws IOException {
        var builder = Grpc.newChannelBuilder(System.getenv("VSYNC_TARGET"), credentials());
        try (var file = new InputStreamReader(
                Connection.class.getResourceAsStream("/service-config.json"), StandardCharsets.UTF_8)) {
            @SuppressWarnings("unchecked")
            Map<String, ?> config = new Gson().fromJson(file, Map.class);
            builder.defaultServiceConfig(config);
        }
        if (System.getenv("VSYNC_TLS_SERVER_NAME") != null) {
            builder.overrideAuthority(System.getenv("VSYNC_TLS_SERVER_NAME"));
        }
        // A key or a JWT. Send it over TLS only.
        if (System.getenv("VSYNC_TOKEN_FILE") != null) {
            Metadata metadata = new Metadata();
            metadata.put(AUTHORIZATION, "Bearer " + Files.readString(Path.of(System.getenv("VSYNC_TOKEN_FILE"))).strip());
            builder.intercept(MetadataUtils.newAttachHeadersInterceptor(metadata));
        }
        return builder.build();
    }

    private static ChannelCredentials credentials() throws IOException {
        if (System.getenv("VSYNC_TLS_CA") == null) {
            return InsecureChannelCredentials.create();
        }
        var tls = TlsChannelCredentials.newBuilder().trustManager(new File(System.getenv("VSYNC_TLS_CA")));
        if (System.getenv("VSYNC_TLS_CERT") != null) {
            tls.keyManager(new File(System.getenv("VSYNC_TLS_CERT")), new File(System.getenv("VSYNC_TLS_KEY")));
        }
        return tls.build();
    }

    private Connection() {}
}
