// {{name}}: an HTTP handler for the edge runtime.

import { Refusal, Router } from './edge.js';

// Paths are counted from the route that the handler is deployed on.
export const router = new Router()
  .get('/greet/:name', greet)
  .postJson('/mean', mean);

function greet({ params, config }) {
  return `${config.greeting ?? 'Hello'}, ${params.name}\n`;
}

function mean(body) {
  const values = body?.values;
  if (!Array.isArray(values) || values.length === 0) {
    throw Refusal.badRequest('send {"values": [..]} with one number at least');
  }
  const odd = values.findIndex((value) => typeof value !== 'number');
  if (odd >= 0) {
    throw Refusal.badRequest(`values[${odd}] is ${JSON.stringify(values[odd])}, not a number`);
  }
  const sum = values.reduce((sum, value) => sum + value, 0);
  return { count: values.length, mean: sum / values.length };
}
