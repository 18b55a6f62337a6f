"""Ties handler.py to the runtime: requests by wasi:http, configuration by wasi:config."""

from componentize_py_types import Err, Ok
from edge import Request, Response
from handler import router
from wit_world import exports
from wit_world.imports import store
from wit_world.imports.streams import StreamError_Closed
from wit_world.imports.types import (
    Fields,
    IncomingBody,
    OutgoingBody,
    OutgoingResponse,
    ResponseOutparam,
)

MAX_BODY_BYTES = 16 << 20
READ_BYTES = 64 << 10
# The most that wasi:io takes in one call.
WRITE_BYTES = 4096


class IncomingHandler(exports.IncomingHandler):
    def handle(self, request, response_out):
        body = _read(request)
        if body is None:
            refusal = {"code": "body-too-large", "error": f"send at most {MAX_BODY_BYTES} bytes"}
            _write(response_out, Response.json(413, refusal))
            return
        headers = {name.lower(): value.decode("latin-1") for name, value in request.headers().entries()}
        target = request.path_with_query() or "/"
        asked = Request(_method(request.method()), target, headers, body, dict(store.get_all()))
        _write(response_out, router.answer(asked))


def _method(method):
    """`Method_Get()` is GET; `Method_Other("PURGE")` names itself."""
    other = getattr(method, "value", None)
    return other or type(method).__name__.removeprefix("Method_").upper()


def _read(request):
    """The whole body, or None if it is too large."""
    body = request.consume()
    blocks, size = [], 0
    with body.stream() as stream:
        while True:
            try:
                block = stream.blocking_read(READ_BYTES)
            except Err as error:
                if isinstance(error.value, StreamError_Closed):
                    break
                raise
            blocks.append(block)
            size += len(block)
            if size > MAX_BODY_BYTES:
                return None
    IncomingBody.finish(body)
    return b"".join(blocks)


def _write(response_out, answer):
    headers = [(name, value.encode("latin-1")) for name, value in answer.headers.items()]
    headers.append(("content-length", str(len(answer.body)).encode()))
    response = OutgoingResponse(Fields.from_list(headers))
    response.set_status_code(answer.status)
    body = response.body()
    ResponseOutparam.set(response_out, Ok(response))
    with body.write() as stream:
        for start in range(0, len(answer.body), WRITE_BYTES):
            stream.blocking_write_and_flush(answer.body[start : start + WRITE_BYTES])
    OutgoingBody.finish(body, None)
