"""A Modbus TCP device of pymodbus, and a write to one of its registers.

    modbus_device.py serve PORT
    modbus_device.py write PORT ADDRESS FLOAT
"""

import asyncio
import sys

from pymodbus.client import ModbusTcpClient
from pymodbus.server import StartAsyncTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice


def device() -> SimDevice:
    coils = [SimData(0, values=[True, False, True] + [False] * 13, datatype=DataType.BITS)]
    discrete = [SimData(0, values=[False, True] + [False] * 14, datatype=DataType.BITS)]
    holding = [
        SimData(100, values=21.5, datatype=DataType.FLOAT32),
        SimData(102, values=-7, datatype=DataType.INT16),
        SimData(103, values=4_000_000_000, datatype=DataType.UINT32),
        SimData(110, values=-9_007_199_254_740_993, datatype=DataType.INT64),
        SimData(200, values=0.1, datatype=DataType.FLOAT64),
    ]
    inputs = [SimData(7, values=512, datatype=DataType.UINT16)]
    return SimDevice(1, simdata=(coils, discrete, holding, inputs))


def main() -> None:
    command, port = sys.argv[1], int(sys.argv[2])
    if command == "serve":
        asyncio.run(StartAsyncTcpServer(device(), address=("127.0.0.1", port)))
        return
    client = ModbusTcpClient("127.0.0.1", port=port)
    assert client.connect(), "no connection"
    registers = client.convert_to_registers(float(sys.argv[4]), client.DATATYPE.FLOAT32)
    answer = client.write_registers(int(sys.argv[3]), registers)
    assert not answer.isError(), answer
    client.close()


main()
