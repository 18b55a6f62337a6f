"""{{name}}: an HTTP handler for the edge runtime."""

import statistics

from edge import Refusal, Router

# Paths are counted from the route that the handler is deployed on.
router = Router()


@router.get("/greet/:name")
def greet(request):
    greeting = request.config.get("greeting", "Hello")
    return f"{greeting}, {request.params['name']}\n"


@router.post("/mean")
def mean(request):
    body = request.json()
    values = body.get("values") if isinstance(body, dict) else None
    if not isinstance(values, list) or not values:
        raise Refusal.bad_request('send {"values": [..]} with one number at least')
    for place, value in enumerate(values):
        if type(value) not in (int, float):
            raise Refusal.bad_request(f"values[{place}] is {value!r}, not a number")
    return {"count": len(values), "mean": statistics.fmean(values)}
