// Ties handler.js to the runtime: requests by wasi:http, configuration by wasi:config.

import { getAll } from 'wasi:config/store@0.2.0-rc.1';
import {
  Fields,
  IncomingBody,
  OutgoingBody,
  OutgoingResponse,
  ResponseOutparam,
} from 'wasi:http/types@0.2.10';

import { router } from './handler.js';

const READ_BYTES = 65_536n;
// The most that wasi:io takes in one call.
const WRITE_BYTES = 4096;

const encoder = new TextEncoder();
const decoder = new TextDecoder();

// Not the fetch event: an instance that is kept warm would answer only once.
export const incomingHandler = {
  async handle(incoming, out) {
    const response = await router.answer(asked(incoming), Object.fromEntries(getAll()));
    send(out, response, new Uint8Array(await response.arrayBuffer()));
  },
};

function asked(incoming) {
  const { tag, val } = incoming.method();
  const method = (val ?? tag).toUpperCase();
  const url = `http://${incoming.authority() ?? 'gateway'}${incoming.pathWithQuery() ?? '/'}`;
  const headers = incoming.headers().entries();
  const body = ['GET', 'HEAD'].includes(method) ? undefined : whole(incoming.consume());
  return new Request(url, {
    method,
    headers: headers.map(([name, value]) => [name, decoder.decode(value)]),
    body,
  });
}

function whole(body) {
  const stream = body.stream();
  const blocks = [];
  let length = 0;
  for (;;) {
    let block;
    try {
      block = stream.blockingRead(READ_BYTES);
    } catch (error) {
      if (error.payload?.tag === 'closed') break;
      throw error;
    }
    blocks.push(block);
    length += block.length;
  }
  stream[Symbol.dispose]();
  IncomingBody.finish(body);
  const all = new Uint8Array(length);
  let at = 0;
  for (const block of blocks) {
    all.set(block, at);
    at += block.length;
  }
  return all;
}

function send(out, { status, headers }, bytes) {
  const entries = [...headers].map(([name, value]) => [name, encoder.encode(value)]);
  const outgoing = new OutgoingResponse(Fields.fromList(entries));
  outgoing.setStatusCode(status);
  const body = outgoing.body();
  ResponseOutparam.set(out, { tag: 'ok', val: outgoing });
  const stream = body.write();
  for (let start = 0; start < bytes.length; start += WRITE_BYTES) {
    stream.blockingWriteAndFlush(bytes.subarray(start, start + WRITE_BYTES));
  }
  stream[Symbol.dispose]();
  OutgoingBody.finish(body, undefined);
}
