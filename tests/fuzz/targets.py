"""What others send, and what reads it: each target takes any bytes whatever, and ends without an unexpected error.

Expected are the errors that a session knows how to deal with.  Run by test_fuzz.py on the corpus and on what Hypothesis
thinks of, and by `make fuzz` guided by coverage.
"""

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from hook.broker.server import Greeting
from hook.config import read_config
from hook.errors import ConfigurationError, FerryError, MachineError, RemoteError, StockOnly, StoreError
from hook.front.caller import Caller
from hook.front.front import Front
from hook.front.log import Log
from hook.machines.builders import Machine, format_machine, parse_machines
from hook.machines.configured import host_of
from hook.protocol.client import StoreClient
from hook.protocol.serve import ServeClient
from hook.protocol.worker import WorkerClient
from hook.remote.ssh import command_for
from hook.values.derivation import Derivation, DerivationOutput, format_derivation, parse_derivation
from hook.values.info import PathInfo
from hook.values.limits import limits_of
from hook.values.realisation import parse_realisation
from tests import oracles
from tests.fakes.source import RecordedChannel

PATH = "/nix/store/00000000000000000000000000000001-tiny"
INFO = PathInfo(PATH, None, bytes(32), 112, ())
DERIVATION = Derivation(
    (("dev", DerivationOutput("", "r:sha256")), ("out", DerivationOutput("", "r:sha256"))),
    (),
    (),
    "x86_64-linux",
    b"/bin/sh",
    (),
    (),
)
OPERATIONS_BYTES = 8
"""What a conversation begins with: one byte for each operation."""


def _upload(client: StoreClient, channel: RecordedChannel) -> None:
    try:
        for upload in client.plan_upload(2, [INFO, INFO]):
            channel.write(upload.request)
        client.poll_upload()
        client.end_upload()
    except RemoteError:
        client.abandon_upload()


OPERATIONS: tuple[Callable[[StoreClient, RecordedChannel], object], ...] = (
    lambda client, _: client.query_valid_paths([PATH], substitute=True),
    lambda client, _: client.add_temp_root(PATH),
    lambda client, _: client.query_path_info(PATH).get(),
    lambda client, _: client.build_derivation(f"{PATH}.drv", DERIVATION, [PATH]).get(),
    lambda client, _: client.build_paths_with_results(PATH).get() if isinstance(client, WorkerClient) else None,
    lambda client, _: client.nar_from_path(PATH).get(),
    lambda client, _: client.settle_log().get(),
    _upload,
)


def _converse(data: bytes, connect: Callable[[RecordedChannel], StoreClient]) -> None:
    channel = RecordedChannel(data[OPERATIONS_BYTES:])
    with suppress(MachineError, RemoteError):
        client = connect(channel)
        for number in data[:OPERATIONS_BYTES]:
            with suppress(RemoteError):
                OPERATIONS[number % len(OPERATIONS)](client, channel)


def worker(data: bytes) -> None:
    """A daemon's side of a conversation, and its log on the way to Nix."""
    log, ids = Log(NOWHERE, 7), dict[int, int]()
    _converse(
        data,
        lambda channel: WorkerClient(
            channel,
            lambda event: log.relay(ids, event),
            lambda activity, received: log.relay_lines(ids, activity, received),
        ),
    )


def serve(data: bytes) -> None:
    """The side of `nix-store --serve`."""
    _converse(data, ServeClient)


def derivation(data: bytes) -> None:
    """The text of a derivation; what is understood means the same once written."""
    with suppress(StoreError, StockOnly):
        parsed = parse_derivation(data)
        assert parse_derivation(format_derivation(parsed)) == parsed


def realisation(data: bytes) -> None:
    """What a machine says about a floating output."""
    with suppress(StoreError):
        parsed = parse_realisation(data, "/nix/store")
        assert parsed.out_path.startswith("/nix/store/")
        assert parse_realisation(oracles.realisation(parsed), "/nix/store") == parsed


def machines(data: bytes) -> None:
    """`builders`: a line that is accepted can be written for stock, and none of it becomes an option of ssh."""
    text = data.decode(errors="surrogateescape")
    for release in ((2, 8), (2, 34)):
        found, _ = parse_machines(text, default_system="x86_64-linux", release=release, read_file=_no_file)
        for machine in found:
            line = format_machine(machine, release)
            (again,), _ = parse_machines(line, default_system="x86_64-linux", release=release, read_file=_no_file)
            assert _essence(again) == _essence(machine)
            machine.uri.lock_stem(release)
            if machine.uri.scheme in ("ssh", "ssh-ng") and not machine.uri.is_plain_localhost:
                with suppress(ConfigurationError):
                    argv = command_for(machine, {}, "/dev/null", release, 5).argv
                    assert argv[0] == "ssh"
                    assert not argv[1].startswith("-")


def _no_file(path: str) -> str:
    raise FileNotFoundError(path)


def _essence(machine: Machine) -> tuple[object, ...]:
    """What must survive writing and reading; old releases have no broken speed factors."""
    return machine.uri, machine.systems, machine.ssh_key, machine.max_jobs, machine.supported, machine.mandatory


@contextmanager
def _file(data: bytes) -> Iterator[int]:
    """A descriptor from which `data` can be read."""
    fd = os.memfd_create("fuzz")
    try:
        os.write(fd, data)
        os.lseek(fd, 0, os.SEEK_SET)
        yield fd
    finally:
        os.close(fd)


def config(data: bytes) -> None:
    """ferry.toml."""
    with _file(data) as fd, suppress(ConfigurationError):
        read_config(f"/proc/self/fd/{fd}")


def request(data: bytes) -> None:
    """What Nix sends, from its settings to the inputs of a build."""
    with _file(data) as fd, suppress(FerryError):
        front = Front(Caller(fd, NOWHERE, NOWHERE, "3", {}, 1))
        settings = front.read_settings()
        host_of(settings)
        limits = limits_of(settings)
        assert min(limits.timeout_s, limits.max_silent_time_s, limits.max_log_bytes) >= 0
        assert max(limits.timeout_s, limits.max_silent_time_s, limits.max_log_bytes) < 1 << 64
        front.read_request()
        front.read_job()


def greeting(data: bytes) -> None:
    """What a shim says first, and one that ends too early."""
    for missing in (0, 1):
        ours, theirs = socket.socketpair()
        with ours, theirs:
            theirs.sendall(data)
            theirs.close()
            with suppress(ValueError):
                Greeting.receive(ours, len(data) + missing)


NOWHERE = os.open(os.devnull, os.O_WRONLY)

TARGETS: dict[str, Callable[[bytes], None]] = {
    target.__name__: target for target in (worker, serve, derivation, realisation, machines, config, request, greeting)
}
