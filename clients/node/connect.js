import { readFileSync } from 'node:fs';
import grpc from '@grpc/grpc-js';
import protoLoader from '@grpc/proto-loader';

const { env } = process;
const file = (name) => readFileSync(new URL(name, import.meta.url));
// The descriptor set contains the services and google.rpc.Status with its details. Longs become strings, so that they stay exact.
const definition = protoLoader.loadFileDescriptorSetFromBuffer(file('vsyncd.protoset'), {
  keepCase: true, longs: String, enums: String, defaults: true, oneofs: true,
});
const { vsync } = grpc.loadPackageDefinition(definition);
// grpc-js uses the retries of the service config and ignores its health checking.
const options = { 'grpc.service_config': file('../service-config.json').toString() };
if (env.VSYNC_TLS_SERVER_NAME) {
  options['grpc.ssl_target_name_override'] = options['grpc.default_authority'] = env.VSYNC_TLS_SERVER_NAME;
}

function credentials() {
  if (!env.VSYNC_TLS_CA) return grpc.credentials.createInsecure();
  const [ca, key, certificate] = [env.VSYNC_TLS_CA, env.VSYNC_TLS_KEY, env.VSYNC_TLS_CERT].map(
    (path) => path ? readFileSync(path) : null);
  const tls = grpc.credentials.createSsl(ca, key, certificate);
  if (!env.VSYNC_TOKEN_FILE) return tls;
  // A key or a JWT, which each call sends. It is read again for each call, since it can be replaced.
  return grpc.credentials.combineChannelCredentials(tls, grpc.credentials.createFromMetadataGenerator((_, done) => {
    const metadata = new grpc.Metadata();
    metadata.set('authorization', `Bearer ${readFileSync(env.VSYNC_TOKEN_FILE, 'utf8').trim()}`);
    done(null, metadata);
  }));
}

// Returns a client of a service whose methods return promises and have a deadline of 30 s.
export function connect(service) {
  const client = new vsync.v1[service](env.VSYNC_TARGET, credentials(), options);
  return new Proxy(client, {
    get: (_, method) => (request) => new Promise((resolve, reject) => {
      client[method](request, { deadline: Date.now() + 30_000 },
        (error, response) => error ? reject(error) : resolve(response));
    }),
  });
}

// Returns the details of an error by the names of their types, for example ErrorInfo and BadRequest.
export function errorDetails(error) {
  const [status] = error.metadata?.get('grpc-status-details-bin') ?? [];
  const details = status ? definition['google.rpc.Status'].deserialize(status).details : [];
  return Object.fromEntries(details.map(({ type_url, value }) => {
    const type = type_url.split('/')[1];
    return [type.split('.').at(-1), definition[type].deserialize(value)];
  }));
}
