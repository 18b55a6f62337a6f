// A guest in JavaScript on the fetch event, as any service worker would be.

const LINES = 16;

addEventListener('fetch', (event) => event.respondWith(answer(event.request)));

function answer(request) {
  const path = new URL(request.url).pathname;
  switch (`${request.method} ${path}`) {
    case 'GET /':
    case 'HEAD /':
      return text(200, 'hello from js\n');
    case 'POST /echo':
      return response(200, request.headers.get('content-type'), request.body);
    case 'GET /stream':
      return response(200, 'text/plain', lines());
    default:
      return text(404, 'no such path\n');
  }
}

function text(status, text) {
  return response(status, 'text/plain', text);
}

function response(status, type, body) {
  return new Response(body, { status, headers: { 'content-type': type } });
}

function lines() {
  const encoder = new TextEncoder();
  let number = 0;
  return new ReadableStream({
    pull(controller) {
      number += 1;
      controller.enqueue(encoder.encode(`line ${number}\n`));
      if (number === LINES) controller.close();
    },
  });
}
