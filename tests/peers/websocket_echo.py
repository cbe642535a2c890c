"""A WebSocket echo server and client on the websockets package.

    websocket_echo.py server PORT
    websocket_echo.py client HOST PORT PATH_HOST

The client connects to HOST:PORT, as a program that uses a per-service port does, and names
PATH_HOST in its request.
"""

import asyncio
import os
import socket
import sys

import websockets


async def serve(port):
    async def echo(connection):
        async for message in connection:
            await connection.send(message)

    async with websockets.serve(echo, "127.0.0.1", port, max_size=None):
        print("serving", flush=True)
        await asyncio.get_running_loop().create_future()


async def call(host, port, name):
    stream = socket.create_connection((host, port))
    async with websockets.connect(f"ws://{name}/socket", sock=stream, max_size=None) as connection:
        for message in ["hello", "", "ü" * 1000, os.urandom(1 << 20)]:
            await connection.send(message)
            assert await connection.recv() == message
        print("text and binary messages")
        await (await connection.ping())
        print("ping and pong")
    assert connection.close_code == 1000, connection.close_code
    print("a clean close")


if sys.argv[1] == "server":
    asyncio.run(serve(int(sys.argv[2])))
else:
    asyncio.run(asyncio.wait_for(call(sys.argv[2], int(sys.argv[3]), sys.argv[4]), 60))
