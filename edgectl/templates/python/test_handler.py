import unittest

from edge import Request
from handler import router


def answer(method, path, body=b"", config=None, headers=None):
    request = Request(method, path, headers or {}, body, config or {})
    response = router.answer(request)
    return response.status, response.body


class HandlerTest(unittest.TestCase):
    def test_greets_by_name(self):
        status, body = answer("GET", "/greet/Ada")
        self.assertEqual(status, 200)
        self.assertTrue(body.endswith(b"Ada\n"), body)

    def test_takes_its_greeting_from_the_configuration(self):
        given = answer("GET", "/greet/Ada", config={"greeting": "Ahoy"})
        self.assertEqual(given, (200, b"Ahoy, Ada\n"))

    def test_does_not_see_the_route_that_it_is_deployed_on(self):
        headers = {"x-edge-route": "/hall/*", "x-edge-rest": "greet/Ada%20L."}
        status, body = answer("GET", "/hall/greet/Ada%20L.", headers=headers)
        self.assertEqual(status, 200)
        self.assertTrue(body.endswith(b"Ada L.\n"), body)

    def test_tells_the_mean(self):
        given = answer("POST", "/mean", b'{"values": [1, 2, 6]}')
        self.assertEqual(given, (200, b'{"count":3,"mean":3.0}'))

    def test_says_what_it_cannot_use(self):
        for body in (b'{"values": []}', b'{"values": [1, "two"]}', b'{"values"', b"7", b"\xff"):
            self.assertEqual(answer("POST", "/mean", body)[0], 400, body)
        self.assertEqual(answer("GET", "/mean")[0], 405)
        self.assertEqual(answer("GET", "/elsewhere")[0], 404)


if __name__ == "__main__":
    unittest.main()
