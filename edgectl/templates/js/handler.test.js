import assert from 'node:assert/strict';
import { test } from 'node:test';

import { router } from './handler.js';

async function answer(method, path, body, config, headers) {
  const request = new Request(`http://gateway${path}`, { method, body, headers });
  const response = await router.answer(request, config);
  return [response.status, await response.text()];
}

test('greets by name', async () => {
  const [status, body] = await answer('GET', '/greet/Ada');
  assert.equal(status, 200);
  assert.match(body, /Ada\n$/);
});

test('takes its greeting from the configuration', async () => {
  const config = { greeting: 'Ahoy' };
  assert.deepEqual(await answer('GET', '/greet/Ada', undefined, config), [200, 'Ahoy, Ada\n']);
});

test('does not see the route that it is deployed on', async () => {
  const headers = { 'x-edge-route': '/hall/*', 'x-edge-rest': 'greet/Ada%20L.' };
  const [status, body] = await answer('GET', '/hall/greet/Ada%20L.', undefined, {}, headers);
  assert.equal(status, 200);
  assert.match(body, /Ada L\.\n$/);
});

test('tells the mean', async () => {
  const body = '{"values": [1, 2, 6]}';
  assert.deepEqual(await answer('POST', '/mean', body), [200, '{"count":3,"mean":3}']);
});

test('says what it cannot use', async () => {
  for (const body of ['{"values": []}', '{"values": [1, "two"]}', '{"values"', '7']) {
    assert.equal((await answer('POST', '/mean', body))[0], 400, body);
  }
  assert.equal((await answer('GET', '/mean'))[0], 405);
  assert.equal((await answer('GET', '/elsewhere'))[0], 404);
});
