"""A network whose cable is pulled, where this machine lets us make one."""

import subprocess
import sys
import time

import pytest

from devstack.island import Island
from devstack.ports import find_free_port
from devstack.services import PATIENCE

pytestmark = pytest.mark.skipif(not Island.is_available(), reason="needs the right to make network namespaces")

# Of each line that comes in the text is sent to a server outside, which sends it back; what came back in so many seconds is told, or
# that nothing did.
_PROGRAM = """
import socket, sys
peer = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
peer.connect((sys.argv[1], int(sys.argv[2])))
for line in sys.stdin:
    seconds, text = line.split(" ", 1)
    peer.settimeout(float(seconds))
    peer.send(text.encode())
    try:
        print(peer.recv(100).decode(), end="", flush=True)
    except TimeoutError:
        print("nothing", flush=True)
"""
_ECHO = """
import socket, sys
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind((sys.argv[1], int(sys.argv[2])))
print("ready", flush=True)
while True:
    content, client = server.recvfrom(100)
    server.sendto(content, client)
"""


def test_packets_are_lost_while_the_cable_is_pulled_and_nobody_is_told() -> None:
    port = find_free_port()
    with Island(port) as island:
        outside = [sys.executable, "-ISc", _ECHO, island.outside, str(port)]
        inside = [*island.prefix, sys.executable, "-ISc", _PROGRAM, island.outside, str(port)]
        with (
            subprocess.Popen(outside, stdout=subprocess.PIPE, text=True) as echo,
            subprocess.Popen(inside, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) as asking,
        ):
            assert echo.stdout is not None
            assert asking.stdin is not None
            assert asking.stdout is not None

            def ask(text: str, seconds: float = 30 * PATIENCE) -> str:
                asking.stdin.write(f"{seconds} {text}\n")  # type: ignore[union-attr]
                return asking.stdout.readline().strip()  # type: ignore[union-attr]

            assert echo.stdout.readline() == "ready\n"
            assert ask("before") == "before"
            island.cut()
            began = time.monotonic()
            assert ask("meanwhile", PATIENCE) == "nothing"
            assert time.monotonic() - began >= PATIENCE
            island.heal()
            assert ask("after") == "after"
            asking.stdin.close()
            echo.kill()
    assert not island.exists
