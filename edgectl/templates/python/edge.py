"""Routes within a handler. Plain Python: it runs on your machine just as on a gateway."""

import json
import sys
import traceback
from dataclasses import dataclass, field
from urllib.parse import parse_qs, unquote


class Refusal(Exception):
    """Why a request is not answered as it wishes; goes out as JSON {"code", "error"}."""

    def __init__(self, status, code, message):
        super().__init__(message)
        self.status = status
        self.code = code

    @classmethod
    def bad_request(cls, message):
        """400: the client sent what cannot be used."""
        return cls(400, "bad-request", message)

    @classmethod
    def not_found(cls, message):
        """404: there is no such thing."""
        return cls(404, "not-found", message)


@dataclass
class Request:
    """A request with its whole body; names of headers are in lower case."""

    method: str
    target: str
    headers: dict = field(default_factory=dict)
    body: bytes = b""
    config: dict = field(default_factory=dict)
    params: dict = field(default_factory=dict)

    @property
    def path(self):
        """What the deployed route left open: what its last * took, else the whole path."""
        rest = self.headers.get("x-edge-rest")
        return self.target.partition("?")[0] if rest is None else f"/{rest}"

    def query(self, name, default=None):
        """The first value of `name` in the query."""
        values = parse_qs(self.target.partition("?")[2], keep_blank_values=True)
        return values.get(name, [default])[0]

    def json(self):
        """The body as JSON; 400 with the place of the fault if it is none."""
        try:
            return json.loads(self.body)
        except ValueError as error:
            raise Refusal(400, "bad-json", f"the body is not JSON: {error}") from error


@dataclass
class Response:
    """A response with its whole body."""

    status: int = 200
    body: bytes = b""
    headers: dict = field(default_factory=dict)

    @classmethod
    def text(cls, status, text):
        """Plain text."""
        return cls(status, text.encode(), {"content-type": "text/plain; charset=utf-8"})

    @classmethod
    def json(cls, status, value):
        """A value as JSON."""
        text = json.dumps(value, separators=(",", ":"))
        return cls(status, text.encode(), {"content-type": "application/json"})


class Router:
    """Routes of a handler; the first that fits is taken.

    A path has words, `:name` for one segment, and `*` last for the rest. What answers
    is given the Request and returns a Response, a str for plain text, or anything else
    for JSON.
    """

    def __init__(self):
        self._routes = []

    def on(self, method, path):
        """Answers `method` on `path` with the function that follows."""

        def register(answer):
            self._routes.append((method, _segments(path), answer))
            return answer

        return register

    def get(self, path):
        """Answers GET and HEAD on `path`."""
        return self.on("GET", path)

    def post(self, path):
        """Answers POST on `path`."""
        return self.on("POST", path)

    def answer(self, request):
        """The answer to a request."""
        try:
            return _respond(self._dispatch(request))
        except Refusal as refusal:
            return _refused(refusal.status, refusal.code, str(refusal))
        except Exception:
            traceback.print_exc(file=sys.stderr)
            return _refused(500, "handler-error", "the handler failed; its log says why")

    def _dispatch(self, request):
        others = []
        for method, segments, answer in self._routes:
            params = _matched(segments, request.path)
            if params is None:
                continue
            if request.method == method or (method, request.method) == ("GET", "HEAD"):
                request.params = params
                return answer(request)
            others.append(method)
        if not others:
            raise Refusal.not_found(f"nothing is served on {request.path}")
        allow = ", ".join(others)
        response = _refused(405, "method-not-allowed", f"{request.path} takes {allow}")
        response.headers["allow"] = allow
        return response


def _segments(path):
    return [segment for segment in path.split("/") if segment]


def _matched(route, path):
    """The parameters of the route if the path fits it, else None."""
    given = _segments(path)
    params = {}
    for place, segment in enumerate(route):
        if segment == "*":
            return params
        if place >= len(given):
            return None
        if segment.startswith(":"):
            try:
                params[segment[1:]] = unquote(given[place], errors="strict")
            except UnicodeDecodeError:
                return None
        elif segment != given[place]:
            return None
    return params if len(given) == len(route) else None


def _respond(answer):
    if isinstance(answer, Response):
        return answer
    if isinstance(answer, str):
        return Response.text(200, answer)
    return Response.json(200, answer)


def _refused(status, code, error):
    return Response.json(status, {"code": code, "error": error})
