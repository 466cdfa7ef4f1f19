"""Commands of the development stack; the scripts beside this file call them after all set-up."""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType

import libvirt

from devstack.demo import list_guests, make_agent_options, run_demo
from devstack.demo_bare_metal import list_machines, run_bare_metal_demo
from devstack.fleet import find_saved_machines
from devstack.guests import GuestKind
from devstack.ports import DEFAULT_BASE
from devstack.stack import DEFAULT_STATE, GuestSpec, Stack
from devstack.steps import StepFailed, Steps
from devstack.testrun import run_tests

_UP_GUESTS = (GuestKind.KDUMP, GuestKind.KDUMP_POST_NOTIFIERS, GuestKind.PANICKING, GuestKind.SURVIVING)


def main(argv: list[str] | None = None) -> int:
    """Run one command; the exit code."""
    arguments = _parse(sys.argv[1:] if argv is None else argv)
    signal.signal(signal.SIGTERM, _leave)
    libvirt.registerErrorHandler(lambda *_: None, None)  # it would print what is raised anyway
    try:
        code: int = arguments.run(arguments)
        return code
    except StepFailed as failure:
        print(f"\n{failure.explain()}", file=sys.stderr)
    except (TimeoutError, OSError, LookupError, libvirt.libvirtError, subprocess.SubprocessError) as error:
        print(f"\ndevstack: FAILED: {error}\n  logs:       {arguments.state}/*.log", file=sys.stderr)
    except KeyboardInterrupt:
        print("\ndevstack: interrupted", file=sys.stderr)
        return 130
    return 1


def _demo(arguments: argparse.Namespace) -> int:
    kind = _choose_demo_kind(arguments)
    started = time.monotonic()
    if arguments.bare_metal:
        stack = _make_stack(arguments, [], machines=list_machines())
    else:
        stack = _make_stack(arguments, list_guests(kind), agent_options=make_agent_options(kind))
    stack.check_free()  # before the try: what runs there already is not ours to stop
    try:
        stack.up()
        code = run_bare_metal_demo(stack) if arguments.bare_metal else run_demo(stack, kind)
    finally:
        if not arguments.keep:
            stack.down()
    stack.steps.say(f"\ndemo: {time.monotonic() - started:.1f} s, exit {code}")
    if arguments.keep:
        _say_where(stack)
    return code


def _up(arguments: argparse.Namespace) -> int:
    guests = [
        GuestSpec("web-1", GuestKind(arguments.guest)),
        GuestSpec("web-2", GuestKind.PANICKING, running=False),
    ]
    stack = _make_stack(arguments, guests, holdoff=arguments.holdoff)
    try:
        stack.up()
    except StepFailed:
        if stack.is_up:
            stack.steps.say(f"\nwhat is running: {_name_command('status', stack)}; stop it: {_name_command('down', stack)}")
        raise
    _say_where(stack)
    return 0


def _down(arguments: argparse.Namespace) -> int:
    stack = _find_stack(arguments)
    if not stack.is_up:
        stack.steps.say(f"nothing runs under {stack.state_dir}")
    stack.down()
    return 0


def _status(arguments: argparse.Namespace) -> int:
    stack = _find_stack(arguments)
    parts = stack.list_parts()
    for name, pid in parts:
        stack.steps.say(f"{name:18} {'not running' if pid is None else f'pid {pid}'}")
    if any(pid is None for _, pid in parts):
        return 1
    stack.steps.say(f"{'API':18} {stack.url}/v2.1")
    for server in stack.client.list_servers():
        stack.steps.say(f"{server['status']:18} {server['id']}  {server['name']}")
    return 0


def _test(arguments: argparse.Namespace) -> int:
    return run_tests(arguments.suites, all_suites=arguments.all, state_dir=arguments.state)


def _make_stack(arguments: argparse.Namespace, guests: list[GuestSpec], **options: object) -> Stack:
    state_dir: Path = arguments.state
    port: int | None = arguments.port
    if port is None:
        # A running stack is found by its directory alone.
        saved = state_dir / "port"
        port = int(saved.read_text()) if arguments.command in ("down", "status") and saved.exists() else DEFAULT_BASE
    return Stack(state_dir, port, guests=guests, steps=Steps(), **options)  # type: ignore[arg-type]


def _find_stack(arguments: argparse.Namespace) -> Stack:
    """That of the last start in its directory."""
    return _make_stack(arguments, [], machines=find_saved_machines(arguments.state))


def _choose_demo_kind(arguments: argparse.Namespace) -> GuestKind:
    if arguments.deaf:
        return GuestKind.DEAF
    if arguments.kdump:
        return GuestKind.KDUMP_POST_NOTIFIERS if arguments.post_notifiers else GuestKind.KDUMP
    return GuestKind.PANICKING


def _say_where(stack: Stack) -> None:
    stack.steps.say(f"\nAPI:     {stack.url}/v2.1 (and {stack.url}/v1)")
    stack.steps.say(f"clients: . {stack.state_dir}/openrc")
    stack.steps.say(f"servers: {stack.state_dir}/servers.json")
    stack.steps.say(f"stop:    {_name_command('down', stack)}")


def _name_command(name: str, stack: Stack) -> str:
    return f"devstack/{name}" + ("" if stack.state_dir == DEFAULT_STATE.resolve() else f" --state {stack.state_dir}")


def _leave(signal_number: int, frame: FrameType | None) -> None:
    """SIGTERM takes the same way out as Ctrl-C, so that a demo stops what it started."""
    raise KeyboardInterrupt


def _parse(argv: list[str]) -> argparse.Namespace:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--state", type=Path, default=DEFAULT_STATE, help="directory of everything the stack writes")
    common.add_argument("--port", type=int, help=f"first of the ten ports of 127.0.0.1 that it uses (default {DEFAULT_BASE})")
    parser = argparse.ArgumentParser(prog="devstack", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)

    demo = commands.add_parser("demo", parents=[common], help="set everything up, trigger a crash dump, show what happened")
    demo.add_argument("--bare-metal", action="store_true", help="a machine with a BMC that speaks IPMI, in place of a guest of libvirt")
    demo.add_argument("--kdump", action="store_true", help="a guest that saves its dump with kdump and reboots")
    demo.add_argument("--post-notifiers", action="store_true", help="with --kdump: the guest has crash_kexec_post_notifiers")
    demo.add_argument("--deaf", action="store_true", help="a guest that ignores NMIs")
    demo.add_argument("--keep", action="store_true", help="leave everything running")
    demo.set_defaults(run=_demo)

    up = commands.add_parser("up", parents=[common], help="set everything up and leave it running, with two guests")
    up.add_argument("--guest", choices=_UP_GUESTS, default=GuestKind.KDUMP, help="how the running one takes an NMI")
    up.add_argument("--holdoff", type=float, metavar="SECONDS", help="crash_dump_holdoff of agent and gateway")
    up.set_defaults(run=_up)

    down = commands.add_parser("down", parents=[common], help="stop everything")
    down.set_defaults(run=_down)
    status = commands.add_parser("status", parents=[common], help="what runs, and the servers; exit 1 when a part does not run")
    status.set_defaults(run=_status)

    test = commands.add_parser("test", parents=[common], help="run the tests")
    test.add_argument("suites", nargs="*", metavar="TIER-OR-PATH", help="tiers, or what pytest takes; default: every quick tier")
    test.add_argument("--all", action="store_true", help="add the long suites")
    test.set_defaults(run=_test)
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
