// Asks a server as a program with the stock gRPC library of JavaScript does: node client.mjs PROTOS HOST:PORT. Packages
// are looked for where it runs. It ends with 0 when every answer is the one that is due.
import assert from 'node:assert/strict';
import { createRequire } from 'node:module';
import { join } from 'node:path';

const [protos, address] = process.argv.slice(2);
const require = createRequire(join(process.cwd(), 'client.mjs'));
const grpc = require('@grpc/grpc-js');
const loader = require('@grpc/proto-loader');
const load = (file) => grpc.loadPackageDefinition(loader.loadSync(file, { includeDirs: [protos], keepCase: true, longs: Number, enums: String, defaults: true, oneofs: true }));
const { inference } = load('inference/inference.proto');
const { grpc: { health } } = load('grpc/health/v1/health.proto');

const open = (options) => new inference.GRPCInferenceService(address, grpc.credentials.createInsecure(), { 'grpc.max_receive_message_length': -1, 'grpc.max_send_message_length': -1, ...options });
const ask = (client, method, request, options = {}) => new Promise((resolve, reject) => {
  client[method](request, options, (err, answer) => (err ? reject(err) : resolve(answer)));
});
const fails = (promise, code, say) => assert.rejects(promise, (err) => {
  assert.equal(err.code, grpc.status[code], err.message);
  assert.ok(err.details.includes(say), `"${err.details}" does not say "${say}"`);
  return true;
});
const floats = (...v) => Buffer.from(new Float32Array(v).buffer);
const raw = (id, ...v) => ({ model_name: 'm', id, inputs: [{ name: 'x', datatype: 'FP32', shape: [1, v.length] }], raw_input_contents: [floats(...v)] });

const client = open({});
assert.equal((await ask(client, 'ServerLive', {})).live, true);
assert.equal((await ask(client, 'ServerReady', {})).ready, true);
assert.equal((await ask(client, 'ModelReady', { name: 'm' })).ready, true);
assert.equal((await ask(client, 'ServerMetadata', {})).name, 'dhow');
assert.deepEqual((await ask(client, 'ModelMetadata', { name: 'm' })).inputs, [{ name: 'x', datatype: 'FP32', shape: [-1, 2] }]);
assert.equal((await ask(client, 'ModelConfig', { name: 'm' })).config.input[0].data_type, 'TYPE_FP32');

let answer = await ask(client, 'ModelInfer', raw('an id', 1, 2));
assert.equal(answer.id, 'an id');
assert.equal(answer.model_version, '1');
assert.deepEqual(answer.outputs.map((o) => [o.name, o.datatype, o.shape]), [['x_out', 'FP32', [1, 2]]]);
assert.deepEqual(answer.raw_output_contents[0], floats(1, 2));

answer = await ask(client, 'ModelInfer', {
  model_name: 'm',
  inputs: [
    { name: 'a', datatype: 'INT64', shape: [2], contents: { int64_contents: [-5, 7] } },
    { name: 'b', datatype: 'BYTES', shape: [1], contents: { bytes_contents: [Buffer.from('é')] } },
    { name: 'c', datatype: 'FP32', shape: [3], contents: { fp32_contents: [1, 3, 2] } },
  ],
  outputs: [{ name: 'c_out', parameters: { classification: { int64_param: 2 } } }, { name: 'b_out' }],
});
assert.deepEqual(answer.outputs.map((o) => o.name), ['c_out', 'b_out']);
assert.equal(answer.raw_output_contents[0].toString(), '\x0a\0\0\x003.000000:1\x0a\0\0\x002.000000:2');
assert.equal(answer.raw_output_contents[1].toString(), '\x02\0\0\0é');

await fails(ask(client, 'ModelInfer', { ...raw('', 1), model_name: 'nobody ü' }), 'NOT_FOUND', 'nobody ü');
await fails(ask(client, 'ModelInfer', { ...raw('', 1), raw_input_contents: [] }), 'INVALID_ARGUMENT', 'fp32_contents has 0');
await fails(ask(client, 'ModelInfer', { ...raw('', 1), model_name: 'slow' }, { deadline: Date.now() + 100 }), 'DEADLINE_EXCEEDED', '');

// Both of the library's encodings, there and back, and messages of many frames.
for (const algorithm of [0, 1, 2]) {
  const packed = open({ 'grpc.default_compression_algorithm': algorithm });
  const data = Buffer.alloc(4 << 20, algorithm + 1);
  answer = await ask(packed, 'ModelInfer', { model_name: 'm', inputs: [{ name: 'x', datatype: 'UINT8', shape: [data.length] }], raw_input_contents: [data] });
  assert.ok(answer.raw_output_contents[0].equals(data), `algorithm ${algorithm}`);
  packed.close();
}

await Promise.all(Array.from({ length: 100 }, async (_, i) => {
  const a = await ask(client, 'ModelInfer', raw(`${i}`, i, -i));
  assert.equal(a.id, `${i}`);
  assert.deepEqual(a.raw_output_contents[0], floats(i, -i));
}));

const stream = client.ModelStreamInfer();
const answers = [];
const ended = new Promise((resolve, reject) => {
  stream.on('data', (a) => answers.push([a.error_message, a.infer_response.id, a.infer_response.parameters.triton_final_response.bool_param]));
  stream.on('error', reject);
  stream.on('end', resolve);
});
for (let i = 0; i < 50; i++) stream.write(i === 7 ? { ...raw('7', 1), model_name: 'nobody' } : raw(`${i}`, i));
stream.end();
await ended;
assert.deepEqual(answers, Array.from({ length: 50 }, (_, i) => [i === 7 ? 'there is no model "nobody"' : '', `${i}`, true]));

const doctor = new health.v1.Health(address, grpc.credentials.createInsecure());
assert.equal((await ask(doctor, 'Check', { service: 'inference.GRPCInferenceService' })).status, 'SERVING');
await fails(ask(doctor, 'Check', { service: 'other' }), 'NOT_FOUND', 'no such service');
const watch = doctor.Watch({});
watch.on('error', () => {});
assert.equal(await new Promise((resolve) => watch.once('data', (a) => resolve(a.status))), 'SERVING');
watch.cancel();
doctor.close();
client.close();
