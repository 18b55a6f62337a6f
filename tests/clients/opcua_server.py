"""An OPC UA server of asyncua, and writes to its nodes.

    opcua_server.py serve PORT FOLDER [whole]  certificate and key come into FOLDER
    opcua_server.py write PORT NODE VALUE   as the node's type
    opcua_server.py fail PORT NODE          with a bad status
"""

import asyncio
import sys
from pathlib import Path

from asyncua import Client, Server, ua
from asyncua.crypto.cert_gen import setup_self_signed_certificate
from asyncua.server.subscription_service import SubscriptionService
from asyncua.server.user_managers import UserManager
from asyncua.crypto.permission_rules import User, UserRole
from cryptography.x509.oid import ExtendedKeyUsageOID

PLANT = "http://plant.example/"
URI = "urn:plant.example:server"
VALUES = {
    "Temperature": (21.5, ua.VariantType.Double),
    "Level": (0.3, ua.VariantType.Float),
    "Running": (True, ua.VariantType.Boolean),
    "Total": (-9_007_199_254_740_993, ua.VariantType.Int64),
    "Order": ("A-4711", ua.VariantType.String),
    "Zones": ([1, 2, 3], ua.VariantType.UInt16),
}


def hand_over_whole(service: SubscriptionService) -> None:
    """asyncua 2.1.0 hands over a subscription but goes on asking the old connection for requests."""
    handed = service.transfer_subscriptions

    async def transfer(params, session_id, callback):
        results = await handed(params, session_id, callback)
        for number in params.SubscriptionIds:
            if subscription := service.subscriptions.get(int(number)):
                subscription.pub_request_callback = callback.__self__.get_publish_request
        return results

    service.transfer_subscriptions = transfer


class Users(UserManager):
    """Anonymous people and the user edge may come in."""

    def get_user(self, iserver, username=None, password=None, certificate=None):
        if username is None or (username, password) == ("edge", "secret"):
            return User(role=UserRole.Admin)
        return None


async def serve(port: int, folder: Path, whole: bool) -> None:
    server = Server(user_manager=Users())
    await server.init()
    if whole:
        hand_over_whole(server.iserver.subscription_service)
    await server.set_application_uri(URI)
    # A name that clients elsewhere cannot resolve, as servers often have.
    server.set_endpoint(f"opc.tcp://0.0.0.0:{port}/plant")
    key, certificate = folder / "key.pem", folder / "server.der"
    await setup_self_signed_certificate(
        key, certificate, URI, "127.0.0.1", [ExtendedKeyUsageOID.SERVER_AUTH], {"commonName": "plant"}
    )
    await server.load_certificate(str(certificate))
    await server.load_private_key(str(key))
    server.set_security_policy([
        ua.SecurityPolicyType.NoSecurity,
        ua.SecurityPolicyType.Basic256Sha256_Sign,
        ua.SecurityPolicyType.Basic256Sha256_SignAndEncrypt,
    ])
    index = await server.register_namespace(PLANT)
    for name, (value, kind) in VALUES.items():
        node = ua.NodeId(f"Press4.{name}", index)
        variable = await server.nodes.objects.add_variable(node, name, value, kind)
        await variable.set_writable()
    counter = await server.nodes.objects.add_variable(ua.NodeId("Counter", index), "Counter", 0)
    async with server:
        print("serving", flush=True)
        count = 0
        while True:
            await asyncio.sleep(0.01)
            count += 1
            await counter.write_value(count)


async def write(port: int, node: str, value: ua.DataValue | str) -> None:
    async with Client(f"opc.tcp://127.0.0.1:{port}") as client:
        variable = client.get_node(node)
        if isinstance(value, str):
            kind = await variable.read_data_type_as_variant_type()
            value = ua.DataValue(ua.Variant(float(value) if kind == ua.VariantType.Double else value, kind))
        await variable.write_attribute(ua.AttributeIds.Value, value)


def main() -> None:
    command, port, rest = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
    if command == "serve":
        asyncio.run(serve(port, Path(rest[0]), rest[1:] == ["whole"]))
    elif command == "write":
        asyncio.run(write(port, rest[0], rest[1]))
    else:
        failure = ua.StatusCode(ua.UInt32(ua.StatusCodes.BadSensorFailure))
        asyncio.run(write(port, rest[0], ua.DataValue(StatusCode=failure)))


main()
