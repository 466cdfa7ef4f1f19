"""Runs clients one after the other, each in a fresh fork of a process that has imported them all; needs their environment, not ours.

Each line of the input is ``{"argv", "environ", "cwd", "stdout", "stderr"}``; the answer is a line with the exit code. The first argument
names what runs: a client's command, or a script by its path. Imports take most of a client's start, and only they are shared.
"""

import json
import os
import runpy
import sys
from typing import Any

import novaclient.shell
import openstack
import openstackclient.compute.v2.server
import openstackclient.compute.v2.server_event
import openstackclient.shell

_IMPORTED = (openstack, openstackclient.compute.v2.server, openstackclient.compute.v2.server_event)
_COMMANDS = {"nova": novaclient.shell.main, "openstack": openstackclient.shell.main}


def main() -> None:
    while line := sys.stdin.readline():
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            _become(request)
            argv = request["argv"]
            if argv[0] in _COMMANDS:
                sys.exit(_COMMANDS[argv[0]](argv[1:]))
            runpy.run_path(argv[0], run_name="__main__")
            sys.exit()
        _, status = os.waitpid(child, 0)
        print(json.dumps(os.waitstatus_to_exitcode(status)), flush=True)


def _become(request: dict[str, Any]) -> None:
    """Input, output, environment and arguments as a shell would have given them to a process of its own."""
    for target, path, flags in ((0, os.devnull, os.O_RDONLY), (1, request["stdout"], None), (2, request["stderr"], None)):
        opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC if flags is None else flags, 0o600)
        os.dup2(opened, target)
        os.close(opened)
    os.environ.clear()
    os.environ.update(request["environ"])
    os.chdir(request["cwd"])
    sys.argv = request["argv"]


if __name__ == "__main__":
    main()
