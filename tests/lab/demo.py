"""`python -m tests.lab.demo`: a real build through nix-ferry, on this machine, in under three minutes.

A client and two builders, all of them throwaway hosts on this machine's own root directory: what they lack is installed
inside them, so that nothing of the machine is changed and nothing stays.  The builders compile nix-ferry's own C
sources; the program they make is then run on the client and has to agree with Nix.
"""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.lab import install
from tests.lab.host import CommandError, Host
from tests.lab.watch import Build, Watch

BUILDERS = ("builder-1", "builder-2")
GRAPH = "/srv/demo"
SOURCES = f"{GRAPH}/sources"

# What .ci/packages looks for in a host, and the package it otherwise installs there.
NIX = ["/usr/bin/nix-daemon=nix-bin"]
CLIENT_NEEDS = [
    *NIX,
    "/usr/bin/ssh=openssh-client",
    "/usr/bin/python3=python3",
    "python:_cffi_backend=python3-cffi-backend",
]
BUILDER_NEEDS = [
    *NIX,
    "/usr/sbin/sshd=openssh-server",
    "/usr/bin/gcc=gcc",
    "/usr/include/stdio.h=libc6-dev",
    "/usr/include/openssl/evp.h=libssl-dev",
]

ADVICE = """\
To use it here, tell Nix where the hook is; `builders` and ssh stay as they are.
  with a daemon    in /etc/nix/nix.conf:          build-hook = {hook}
                   then: systemctl restart nix-daemon
  single user      in ~/.config/nix/nix.conf:     the same line
  Nix 2.25 - 2.33  ignore it in /etc/nix/nix.conf (fixed in 2.34); give the daemon's unit instead:
                   Environment="NIX_CONFIG=build-hook = {hook}"
"""


def main() -> int:
    if os.geteuid() != 0:
        return complain("it makes namespaces and mounts, so it has to run as root")
    try:
        return demonstrate()
    except KeyboardInterrupt:
        print("\ninterrupted; the hosts are gone and nothing of them is left")
        return 130
    except (CommandError, TimeoutError, OSError) as error:
        return complain(str(error))
    except subprocess.CalledProcessError as error:
        return complain(f"{' '.join(map(str, error.cmd))}: exit status {error.returncode}")


def complain(text: str) -> int:
    print(f"demo: {text}", file=sys.stderr)
    return 1


def demonstrate() -> int:
    with contextlib.ExitStack() as stack:
        say("starting a client and two builders, with stores, homes and ssh keys of their own")
        client, *builders = [stack.enter_context(Host(name, "/")) for name in ("client", *BUILDERS)]
        say("installing in them what this machine lacks of Nix, ssh and gcc")
        provide({client: CLIENT_NEEDS, **dict.fromkeys(builders, BUILDER_NEEDS)})
        scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="nix-ferry-demo-"))
        say("building nix-ferry and installing it on the client")
        install.install(install.build(Path(scratch)), client)
        connect(client, builders)
        put_sources(client)
        say(f"nix-build -j0 on the client, Nix {client.nix_version()}: it may not build anything itself\n")
        return offload(client)


def provide(needs: dict[Host, list[str]]) -> None:
    """Install what is missing in each host, side by side."""
    script = install.SOURCES / ".ci" / "packages"
    running = []
    for host, probes in needs.items():
        host.write_file("/run/packages", script.read_bytes(), 0o755)
        # Packages must not start services here.
        host.write_file("/usr/sbin/policy-rc.d", "#!/bin/sh\nexit 101\n", 0o755)
        give_resolver(host)
        child = host.popen(["/run/packages", *probes], env={"PYTHON": "/usr/bin/python3"}, stderr=subprocess.STDOUT)
        running.append((host, child))
    for host, child in running:
        output, _ = child.communicate()
        if child.returncode != 0:
            raise CommandError(f"cannot install packages in {host.name}:\n{output}")


def give_resolver(host: Host) -> None:
    """Copy resolv.conf: on many machines it is a link into /run, which starts empty in a host."""
    with contextlib.suppress(FileNotFoundError):
        content = Path("/etc/resolv.conf").read_bytes()
        host.run(["rm", "-f", "/etc/resolv.conf"])
        host.write_file("/etc/resolv.conf", content)


def connect(client: Host, builders: Sequence[Host]) -> None:
    for builder in builders:
        builder.start_sshd()
        client.trust(builder)
    client.configure(hook=install.HOOK, builders=" ; ".join(f"ssh-ng://{host.name} - - 8" for host in builders))
    client.start_daemon()


def put_sources(client: Host) -> None:
    """Copy the graph and the C sources to the client."""
    here = Path(__file__).parent / "graphs" / "demo"
    native = install.SOURCES / "native"
    shutil.copytree(here, client.path(GRAPH))
    client.path(SOURCES).mkdir()
    for file in [here / "narhash.c", *sorted(native.glob("*.[ch]"))]:
        # What cffi generates and reads is for Python only.
        if file.name not in {"_native.c", "cdef.h", "shim.c"}:
            shutil.copy(file, client.path(SOURCES))


def offload(client: Host) -> int:
    """Build the graph, telling of each build as it ends, then show what it cost and what came of it."""
    watch = Watch()
    began = time.monotonic()
    command = ["nix-build", GRAPH, "--arg", "sources", SOURCES, "-A", "hash", "-A", "program"]
    child = client.popen([*command, "-j0", "--no-out-link", "--log-format", "internal-json"])
    builds = []
    for build in follow(child, watch):
        print(
            f"  {build.ended - began:5.1f} s  {name(build.machine)}  {build.drv.partition('-')[2].removesuffix('.drv')}"
        )
        builds.append(build)
    took = time.monotonic() - began
    if child.wait() != 0:
        return complain("the build failed:\n" + "\n".join(watch.errors))
    assert child.stdout is not None
    hash_file, program = child.stdout.read().split()
    show_machines(builds, watch, took)
    return check(client, hash_file, program)


def follow(child: "subprocess.Popen[str]", watch: Watch) -> Iterator[Build]:
    assert child.stderr is not None
    for line in child.stderr:
        build = watch.feed(line, time.monotonic())
        if build is not None:
            yield build


def show_machines(builds: list[Build], watch: Watch, took: float) -> None:
    count = Counter(build.machine for build in builds)
    print("\n  machine     builds         up       down")
    for machine in sorted(count):
        up, down = (f"{copied[machine] / 1024:.0f} KiB" for copied in (watch.up, watch.down))
        print(f"  {name(machine):10}  {count[machine]:6}  {up:>9}  {down:>9}")
    print(f"  {len(builds)} builds in {took:.1f} s, none of them on the client\n")


def check(client: Host, hash_file: str, program: str) -> int:
    """Run the program on the client: the hash it prints must be the builder's and the one Nix registered."""
    source = client.run(["nix-store", "--add", SOURCES]).stdout.strip()
    here = client.run([program, source]).stdout.strip()
    known = client.run(["nix-store", "--query", "--hash", source]).stdout.strip().removeprefix("sha256:")
    nix = client.run(["nix-hash", "--type", "sha256", "--to-base16", known]).stdout.strip()
    print(f"  the program they made hashes its own source: {here[:16]}…")
    print(f"  so it did on the builder, and so does Nix:   {client.read_file(hash_file)[:16]}…  {nix[:16]}…\n")
    if not here == nix == client.read_file(hash_file).strip():
        return complain("these hashes differ: the build is wrong")
    client.run(["nix-store", "--verify", "--check-contents"])
    print(ADVICE.format(hook=Path(sys.executable).with_name("nix-ferry-hook")), end="")
    return 0


def name(machine: str) -> str:
    return machine.removeprefix("ssh-ng://")


def say(text: str) -> None:
    print(f"nix-ferry demo: {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
