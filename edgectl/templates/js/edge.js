// Routes within a handler, on the web's own Request and Response, so that it
// runs in Node.js just as on a gateway.

/** Why a request is not answered as it wishes; goes out as JSON {"code", "error"}. */
export class Refusal extends Error {
  /** A refusal with its HTTP status, a stable word for programs and a sentence for people. */
  constructor(status, code, message) {
    super(message);
    this.status = status;
    this.code = code;
  }

  /** 400: the client sent what cannot be used. */
  static badRequest(message) {
    return new Refusal(400, 'bad-request', message);
  }

  /** 404: there is no such thing. */
  static notFound(message) {
    return new Refusal(404, 'not-found', message);
  }
}

/**
 * Routes of a handler; the first that fits is taken.
 *
 * A path has words, `:name` for one segment, and `*` last for the rest. What
 * answers is given `{ request, params, query, config }` and returns, or promises,
 * a Response, a string for plain text, or anything else for JSON.
 */
export class Router {
  #routes = [];

  /** Answers `method` on `path`. */
  on(method, path, answer) {
    this.#routes.push({ method, segments: segments(path), answer });
    return this;
  }

  /** Answers GET and HEAD on `path`. */
  get(path, answer) {
    return this.on('GET', path, answer);
  }

  /** Answers POST on `path`. */
  post(path, answer) {
    return this.on('POST', path, answer);
  }

  /** Answers POST on `path`; what the body holds as JSON comes before the rest. */
  postJson(path, answer) {
    return this.post(path, async (call) => answer(await json(call.request), call));
  }

  /** The answer to a request; `config` is the handler's configuration. */
  async answer(request, config = {}) {
    try {
      return respond(await this.#dispatch(request, config));
    } catch (error) {
      if (error instanceof Refusal) {
        return refused(error.status, error.code, error.message);
      }
      console.error(`${error}\n${error?.stack ?? ''}`);
      return refused(500, 'handler-error', 'the handler failed; its log says why');
    }
  }

  #dispatch(request, config) {
    const url = new URL(request.url);
    const path = relativePath(request, url);
    const others = [];
    for (const route of this.#routes) {
      const params = matched(route.segments, path);
      if (params === null) continue;
      if (takes(route, request.method)) {
        return route.answer({ request, params, query: url.searchParams, config });
      }
      others.push(route.method);
    }
    if (others.length === 0) {
      throw Refusal.notFound(`nothing is served on ${path}`);
    }
    const allow = others.join(', ');
    return refused(405, 'method-not-allowed', `${path} takes ${allow}`, { allow });
  }
}

/** What the deployed route left open: what its last `*` took, else the whole path. */
function relativePath(request, url) {
  const rest = request.headers.get('x-edge-rest');
  return rest === null ? url.pathname : `/${rest}`;
}

function takes(route, method) {
  return route.method === method || (route.method === 'GET' && method === 'HEAD');
}

function segments(path) {
  return path.split('/').filter((segment) => segment !== '');
}

/** The parameters of the route if the path fits it, else null. */
function matched(route, path) {
  const given = segments(path);
  const params = {};
  for (const [place, segment] of route.entries()) {
    if (segment === '*') return params;
    if (place >= given.length) return null;
    if (segment.startsWith(':')) {
      const value = decoded(given[place]);
      if (value === null) return null;
      params[segment.slice(1)] = value;
    } else if (segment !== given[place]) {
      return null;
    }
  }
  return given.length === route.length ? params : null;
}

function decoded(segment) {
  try {
    return decodeURIComponent(segment);
  } catch {
    return null;
  }
}

async function json(request) {
  const text = await request.text();
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new Refusal(400, 'bad-json', `the body is not JSON: ${error.message}`);
  }
}

function respond(answer) {
  if (answer instanceof Response) return answer;
  if (typeof answer === 'string') {
    return new Response(answer, { headers: { 'content-type': 'text/plain; charset=utf-8' } });
  }
  return asJson(200, answer);
}

function refused(status, code, error, headers) {
  return asJson(status, { code, error }, headers);
}

function asJson(status, value, headers) {
  const own = { 'content-type': 'application/json', ...headers };
  return new Response(JSON.stringify(value), { status, headers: own });
}
