"""Takes measured values as CSV and answers count, mean, deviation and extremes
of each column as JSON. Plain Python and its standard library.
"""

import csv
import json
import statistics

from componentize_py_types import Err, Ok
from wit_world import exports
from wit_world.imports import store
from wit_world.imports.types import (
    Fields,
    IncomingBody,
    Method_Post,
    OutgoingBody,
    OutgoingResponse,
    ResponseOutparam,
)

BLOCK = 64 * 1024
MAX_BODY = 4 * 1024 * 1024


class IncomingHandler(exports.IncomingHandler):
    def handle(self, request, response_out):
        if isinstance(request.method(), Method_Post):
            status, answer = summary(read(request))
        else:
            status, answer = 405, {"error": "POST measured values as CSV with a head line"}
        write(response_out, status, answer)


def summary(body):
    """Status and answer for a request's body."""
    if body is None:
        return 413, {"error": f"send at most {MAX_BODY} bytes"}
    try:
        rows = list(csv.DictReader(body.decode().splitlines(), strict=True))
        columns = {name: [float(row[name]) for row in rows] for name in rows[0]} if rows else {}
    except (UnicodeDecodeError, csv.Error, TypeError, ValueError) as error:
        return 400, {"error": f"not CSV of numbers: {error}"}
    if not columns:
        return 400, {"error": "send a head line and at least one line of numbers"}
    digits = int(store.get("digits") or 3)
    return 200, {name: describe(values, digits) for name, values in columns.items()}


def describe(values, digits):
    return {
        "count": len(values),
        "mean": round(statistics.fmean(values), digits),
        "deviation": round(statistics.pstdev(values), digits),
        "min": min(values),
        "max": max(values),
    }


def read(request):
    """The whole body, or None if it is too large."""
    body = request.consume()
    blocks, size = [], 0
    with body.stream() as stream:
        while True:
            try:
                block = stream.blocking_read(BLOCK)
            except Err:  # the stream is closed: that is its end
                break
            blocks.append(block)
            size += len(block)
            if size > MAX_BODY:
                return None
    IncomingBody.finish(body)
    return b"".join(blocks)


def write(response_out, status, answer):
    text = json.dumps(answer).encode()
    headers = [("content-type", b"application/json"), ("content-length", str(len(text)).encode())]
    response = OutgoingResponse(Fields.from_list(headers))
    response.set_status_code(status)
    body = response.body()
    ResponseOutparam.set(response_out, Ok(response))
    with body.write() as stream:
        for start in range(0, len(text), 4096):
            stream.blocking_write_and_flush(text[start : start + 4096])
    OutgoingBody.finish(body, None)
