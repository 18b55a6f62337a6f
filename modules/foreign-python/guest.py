"""A guest in Python, on the bindings that componentize-py makes."""

from componentize_py_types import Err, Ok
from wit_world import exports
from wit_world.imports.types import (
    Fields,
    IncomingBody,
    Method_Get,
    Method_Head,
    Method_Post,
    OutgoingBody,
    OutgoingResponse,
    ResponseOutparam,
)

LINES = 16
READ_BYTES = 64 << 10
WRITE_BYTES = 4096


class IncomingHandler(exports.IncomingHandler):
    def handle(self, request, response_out):
        match request.method(), request.path_with_query():
            case Method_Get() | Method_Head(), "/":
                say(response_out, 200, [b"hello from python\n"])
            case Method_Post(), "/echo":
                echo(request, response_out)
            case Method_Get(), "/stream":
                say(response_out, 200, (f"line {n}\n".encode() for n in range(1, LINES + 1)))
            case _:
                say(response_out, 404, [b"no such path\n"])


def echo(request, response_out):
    types = request.headers().get("content-type")
    body = request.consume()
    with body.stream() as stream:
        say(response_out, 200, blocks(stream), types[0] if types else None)
    IncomingBody.finish(body)


def blocks(stream):
    while True:
        try:
            yield stream.blocking_read(READ_BYTES)
        except Err:  # the stream is closed: that is its end
            return


def say(response_out, status, parts, kind=b"text/plain"):
    headers = [("content-type", kind)] if kind else []
    response = OutgoingResponse(Fields.from_list(headers))
    response.set_status_code(status)
    body = response.body()
    ResponseOutparam.set(response_out, Ok(response))
    with body.write() as stream:
        for part in parts:
            for start in range(0, len(part), WRITE_BYTES):
                stream.blocking_write_and_flush(part[start : start + WRITE_BYTES])
    OutgoingBody.finish(body, None)
