"""`nix-ferry broker start|stop|restart`.

Hooks start the broker by themselves, and nothing is lost without one; this is for who changes something about its
process.  Tested in cli/test_broker_command.py.
"""

import os
import signal
import subprocess
from contextlib import closing, suppress
from typing import BinaryIO

import click

from hook.broker.client import RunningBroker, broker_directory
from hook.broker.server import Question
from hook.broker.standing import standing_of
from hook.cli.command import command
from hook.cli.install.where import broker_program
from hook.errors import FerryError

END_TIMEOUT_S = 10.0

now_option = click.option("--now", is_flag=True, help="End it at once: its builds fail, and Nix is told.")


@click.group()
def broker() -> None:
    """Start, stop or restart the broker, which hooks start by themselves.

    The broker is the process that keeps connections to machines and does the work of hooks. None is needed for a build.

    \b
    Examples:
      nix-ferry broker restart   another broker, when the builds of this one are over
    """


@broker.command()
@command
def start() -> int:
    """Start the broker, unless it runs.

    It still ends when it has had nothing to do for a while.

    \b
    Examples:
      nix-ferry broker start   says which process it is
    """
    _start(broker_directory(os.environ))
    return 0


@broker.command()
@now_option
@command
def stop(now: bool) -> int:
    """Have the broker end when its builds are over, and wait for that.

    Ctrl-C ends only the waiting. A build that comes meanwhile starts another broker.

    \b
    Examples:
      nix-ferry broker stop         says for how many builds it waits, and when it has ended
      nix-ferry broker stop --now   ends it at once, and its builds with it
    """
    _stop(broker_directory(os.environ), now=now)
    return 0


@broker.command()
@now_option
@command
def restart(now: bool) -> int:
    """Stop the broker, wait until it has ended, and start another one.

    A new nix-ferry does not need it: a hook of another version replaces the broker by itself.

    \b
    Examples:
      nix-ferry broker restart         says when the one has ended and the other runs
      nix-ferry broker restart --now   does not wait for builds: Nix is told that they failed
    """
    directory = broker_directory(os.environ)
    _stop(directory, now=now)
    _start(directory)
    return 0


def _start(directory: str) -> None:
    if running := RunningBroker.reach(directory):
        with closing(running):
            click.echo(f"the broker is running already, as process {running.pid}")
        return
    program = broker_program()
    os.makedirs(directory, 0o700, exist_ok=True)
    standing = standing_of(0)
    if standing is None:
        raise FerryError("'/proc' does not show this process, so there can be no broker for it")
    ready, says_ready = os.pipe()
    try:
        # In a session of its own: it must not end with this terminal.
        child = subprocess.Popen(
            [program, directory, str(says_ready), standing],
            env={"PATH": os.defpath, "LC_ALL": "C.UTF-8"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
            pass_fds=[says_ready],
        )
    except OSError as error:
        raise FerryError(f"cannot start '{program}': {error.strerror}") from None
    finally:
        os.close(says_ready)
    with open(ready, "rb") as answer:
        listening = answer.read(1) == b"1"
    # It may be another process, which systemd has started.
    started = RunningBroker.reach(directory) if listening else None
    if started is None:
        raise FerryError(f"the broker (process {child.pid}) ended at once; see 'nix-ferry log'")
    with closing(started):
        click.echo(f"the broker is running, as process {started.pid}")


def _stop(directory: str, *, now: bool) -> None:
    running = RunningBroker.reach(directory)
    if running is None:
        click.echo("no broker is running")
        return
    with closing(running), suppress(ProcessLookupError), open(os.pidfd_open(running.pid), "rb", 0) as process:
        if now:
            signal.pidfd_send_signal(process.fileno(), signal.SIGKILL)
            if not _has_ended(process, END_TIMEOUT_S):
                raise FerryError(f"the broker (process {running.pid}) did not end within {END_TIMEOUT_S:.0f} s")
        else:
            _retire(running, process)
    click.echo(f"the broker (process {running.pid}) has ended")


def _retire(running: RunningBroker, process: BinaryIO) -> None:
    overview = running.ask(Question.RETIRE)
    try:
        if count := len(overview["builds"]):
            builds = "1 build" if count == 1 else f"{count} builds"
            click.echo(f"the broker (process {running.pid}) takes no more and ends after {builds}; waiting for that")
        _has_ended(process, None)
    except KeyboardInterrupt:
        raise FerryError("not waiting any longer; the broker ends by itself") from None


def _has_ended(process: BinaryIO, timeout_s: float | None) -> bool:
    import select

    poll = select.poll()
    poll.register(process, select.POLLIN)
    return bool(poll.poll(None if timeout_s is None else timeout_s * 1000))
