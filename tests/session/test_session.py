"""A whole session against scripted machines: what Nix is answered, what its user reads, what the store holds.

The machines are local commands behind `ssh-ng://localhost?remote-program=…`; real daemons and a real sshd are in the
lab.  Every test also looks at what must hold whatever happened: no slot held, nothing half-registered.
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from hook.broker.client import overview_of
from hook.protocol.wire import Writer
from hook.session.record import BUILDS
from tests.fakes.bench import HOOK, Bench


def test_a_build_is_accepted_built_and_registered(bench: Bench) -> None:
    """The whole way: inputs there, log here, outputs verified and valid."""
    outcome = bench.build(bench.machine("ok"))
    assert outcome.status == 0
    assert outcome.answers == ["# accept"]
    uri = outcome.lines[outcome.lines.index("# accept") + 1]
    assert uri.startswith("ssh-ng://localhost")
    assert bench.outputs_valid()
    assert all(bench.store.content(path) == path for path in bench.store.outputs.values())
    log = [event["fields"] for event in outcome.events if event.get("type") == 101]
    assert log == [["a line of the log"]]


@pytest.mark.parametrize("behaviour", ["ok", "build-fails", "refuse-build_derivation"])
def test_the_oldest_nix_that_is_spoken_to_builds_the_same(bench: Bench, behaviour: str) -> None:
    """It asks for each piece of an input, and has less to say; the second build finds the connection in order."""
    machine = bench.machine(f"nix-2.3,{behaviour}")
    for _ in range(2):
        outcome = bench.build(machine)
        assert (outcome.status == 0, bench.outputs_valid()) == (behaviour == "ok", behaviour == "ok")
    words = {"ok": "", "build-fails": "builder failed with exit code 3", "refuse-build_derivation": "not today"}
    assert words[behaviour] in outcome.messages


def test_a_machine_that_speaks_the_other_protocol_is_told_apart(bench: Bench) -> None:
    """Its address would work with the other scheme, and the line says so."""
    outcome = bench.build(bench.machine("ok", scheme="ssh"), bench.machine("ok", "other"))
    assert outcome.status == 0
    (line,) = [line for line in outcome.messages.splitlines() if "cannot build on 'ssh://localhost" in line]
    assert "protocol mismatch" in line
    assert "runs the program for 'ssh-ng://': write that instead" in line


def test_paths_in_builders_may_have_any_bytes(bench: Bench) -> None:
    """A file that is not there, one that cannot be read, a key, and the store of a machine."""
    secret = bench.conf_dir / "secret-\udcff"
    secret.mkdir()
    machine = bench.machine("ok")
    uri, system, _, *rest = machine.split()
    odd = f"{uri} {system} /key-\udcff {' '.join(rest)}"
    outcome = bench.build("@/none-\udcff", f"@{secret}", "/store-\udcff riscv64-linux", odd)
    assert outcome.status == 0, outcome.messages
    assert outcome.answers == ["# accept"]
    assert "secret-\\udcff': Is a directory" in outcome.messages
    assert bench.outputs_valid()


def test_activities_all_end(bench: Bench) -> None:
    """What stays open stays in the user's progress display until the hook is gone."""
    events = bench.build(bench.machine("ok")).events
    started = [event["id"] for event in events if event["action"] == "start"]
    stopped = [event["id"] for event in events if event["action"] == "stop"]
    assert sorted(map(str, started)) == sorted(map(str, stopped))
    texts = [event.get("text") for event in events if event["action"] == "start"]
    assert f"copying path '{bench.store.source}' to 'ssh-ng://localhost'" in " ".join(map(str, texts)).replace(
        bench.machine("ok").split()[0], "ssh-ng://localhost"
    )


def test_a_failing_derivation_is_reported_once_in_stocks_words_and_not_tried_again(bench: Bench) -> None:
    """Two able machines: the second must not be asked."""
    outcome = bench.build(bench.machine("build-fails", speed=2), bench.machine("ok", "other"))
    assert outcome.status == 1
    assert outcome.messages.count("builder failed with exit code 3") == 1
    assert f"build of '{bench.store.drv_path}' on 'ssh-ng://localhost" in outcome.messages
    assert not bench.outputs_valid()


def test_a_failure_is_told_in_full_once_and_remembered_in_short(tmp_path: Path) -> None:
    """The last lines of a log may be megabytes; a hundred such builds are nothing to a broker or its files."""
    with Bench(tmp_path, broker=True) as bench:
        outcome = bench.build(bench.machine("fails-at-length"))
        assert outcome.messages.count("first words") == outcome.messages.count("last words") == 1
        assert outcome.messages.count("x" * 1_000_000) == 1
        directory = str(bench.hook_state / "nix-ferry")
        overview_of(directory)
        (entry,) = BUILDS.read(directory)
        assert entry["detail"].startswith("first words xxx")
        assert entry["detail"].endswith("xxx last words")
        assert len(entry["detail"]) < 2100


@pytest.mark.parametrize("verbosity", ["4", "5"])
def test_what_ssh_says_while_it_connects_is_shown_to_who_wants_to_know(bench: Bench, verbosity: str) -> None:
    """From `-vv` on, which is when ssh is asked to say it."""
    outcome = bench.build(bench.machine("verbose"), argument=verbosity)
    assert outcome.status == 0
    assert ("debug1: as ssh" in outcome.messages.splitlines()) == (verbosity == "5")


BEFORE_ACCEPT = {
    "no-nix": "command not found",
    "noise,ends": "Welcome to the builder!",
}


@pytest.mark.parametrize("behaviour", sorted(BEFORE_ACCEPT))
def test_a_machine_that_cannot_be_reached_is_named_and_the_next_one_is_used(bench: Bench, behaviour: str) -> None:
    """The failed one is better by speed; its trouble costs one line."""
    outcome = bench.build(bench.machine(behaviour, speed=9), bench.machine("ok"))
    assert outcome.status == 0
    assert "cannot build on 'ssh-ng://localhost" in outcome.messages
    assert BEFORE_ACCEPT[behaviour] in outcome.messages
    assert bench.outputs_valid()


@pytest.mark.parametrize("behaviour", sorted(BEFORE_ACCEPT))
def test_without_another_machine_nix_is_told_to_go_on_alone(bench: Bench, behaviour: str) -> None:
    """Decline, so that this host builds it if it may, or Nix says why nobody can."""
    outcome = bench.ask(bench.machine(behaviour))
    assert outcome.answers == ["# decline"]
    assert outcome.messages.count("cannot build on") == 1


def test_what_waits_for_machines_that_are_all_down_says_so_once(tmp_path: Path) -> None:
    """Two hundred derivations wait, and one line tells why; whoever may build here does not wait."""
    with Bench(tmp_path, broker=True) as bench:
        machine = bench.machine("no-nix")
        assert bench.ask(machine).messages.count("cannot build on") == 1
        outcomes = [bench.ask(machine) for _ in range(3)]
        assert [outcome.answers for outcome in outcomes] == [["# postpone"]] * 3
        said = [outcome.messages.count("waiting for a machine: 'ssh-ng://localhost") for outcome in outcomes]
        assert said == [1, 0, 0]
        able = bench.preamble([machine], max_jobs="1") + bench.request()
        assert bench.hook(able).answers == ["# decline"]


def test_a_build_that_fails_says_nothing_about_its_machine(tmp_path: Path) -> None:
    """The next build goes there at once."""
    with Bench(tmp_path, broker=True) as bench:
        machine = bench.machine("build-fails")
        assert bench.build(machine).status == 1
        outcome = bench.ask(machine)
        assert outcome.answers == ["# accept"]
        assert "connecting" not in " ".join(outcome.texts)


AFTER_ACCEPT = [
    "die-query_valid_paths",
    "die-add_multiple_to_store",
    "refuse-add_multiple_to_store",
    "die-build_derivation",
    "refuse-build_derivation",
    "die-query_path_info",
    "refuse-query_path_info",
    "output-missing",
    "die-nar_from_path",
    "refuse-nar_from_path",
    "half-nar",
    "bad-nar",
]


@pytest.mark.parametrize("behaviour", AFTER_ACCEPT)
def test_a_machine_lost_at_any_step_is_replaced(bench: Bench, behaviour: str) -> None:
    """Nix was promised a build: it happens elsewhere at once, and the log says that it moved."""
    outcome = bench.build(bench.machine(behaviour, speed=9), bench.machine("ok"))
    assert outcome.answers == ["# accept"]
    assert outcome.status == 0
    assert outcome.messages.count("was lost") == 1
    assert bench.outputs_valid()


@pytest.mark.parametrize("behaviour", AFTER_ACCEPT)
def test_a_machine_that_fails_for_good_ends_the_build_and_leaves_nothing(bench: Bench, behaviour: str) -> None:
    """A bounded number of tries, one final line, nothing registered; then the same build succeeds."""
    outcome = bench.build(bench.machine(behaviour))
    assert outcome.status == 1
    assert outcome.messages.count(f"build of '{bench.store.drv_path}' on") == 1
    assert not bench.outputs_valid()
    assert bench.build(bench.machine("ok")).status == 0
    assert bench.outputs_valid()


@pytest.mark.parametrize(
    ("behaviour", "expected"),
    [
        ("wrong-hash", "hash mismatch"),
        ("wild-reference", "00000000000000000000000000000008-nobody-has"),
        ("endless", "longer than the"),
    ],
)
def test_what_a_builder_sends_is_believed_only_after_it_was_checked(
    bench: Bench, behaviour: str, expected: str
) -> None:
    """Wrong bytes, references to paths nobody has, more bytes than declared; another machine is believed instead."""
    outcome = bench.build(bench.machine(behaviour))
    assert outcome.status == 1
    assert expected in outcome.messages
    assert not bench.outputs_valid()
    outcome = bench.build(bench.machine(behaviour, "again", speed=9), bench.machine("ok"))
    assert outcome.status == 0
    assert expected in outcome.messages
    assert bench.outputs_valid()


def test_limits_reach_the_builder(bench: Bench) -> None:
    """`timeout` and `max-silent-time` are set here and must count there."""
    outcome = bench.build(bench.machine("die-build_derivation"), timeout="77", max_silent_time="5")
    assert "options: {'timeout': '77'}" in outcome.messages


# Answers without a build


def test_no_machines_means_never_ask_again(bench: Bench) -> None:
    """As stock: an empty `builders` costs one answer per command."""
    assert bench.ask().answers == ["# decline-permanently"]


def test_a_busy_machine_means_ask_later(bench: Bench) -> None:
    """Somebody else holds the only slot: Nix asks again, or the build waits in the broker until the slot is free."""
    machine = bench.machine("ok", jobs=1)
    data = bench.preamble([machine]) + bench.request() + (bench.job() if bench.broker else b"")
    with bench.take_slot(machine) as slot, bench.start(data) as hook:
        assert hook.stdin is not None
        assert hook.stderr is not None
        hook.stdin.close()
        answer = next(line for line in hook.stderr if line.startswith(b"# "))
        assert answer == (b"# accept\n" if bench.broker else b"# postpone\n")
        assert not bench.outputs_valid()
        slot.close()
        hook.stderr.read()
    assert hook.returncode == 0
    assert bench.outputs_valid() == bench.broker


def test_a_wrong_machine_says_why_in_one_line(bench: Bench) -> None:
    """ "Why was it declined?" is answered at `-v`."""
    data = bench.preamble([bench.machine("ok")]) + bench.request(features=["kvm"])
    outcome = bench.hook(data)
    assert outcome.answers == ["# decline"]
    assert any("kvm" in line for line in outcome.messages.splitlines())


def test_one_process_answers_many_requests(bench: Bench) -> None:
    """Declines and postpones leave the process; the third request is built."""
    data = bench.preamble([bench.machine("ok")])
    data += bench.request(features=["kvm"]) + bench.request(system="riscv64-linux") + bench.request() + bench.job()
    outcome = bench.hook(data)
    assert outcome.answers == ["# decline", "# decline", "# accept"]
    assert bench.outputs_valid()


@pytest.mark.parametrize("trap", ["link", "open", "foreign"])
def test_a_private_directory_that_others_could_change_is_not_used(bench: Bench, tmp_path: Path, trap: str) -> None:
    """It holds the host keys that were pinned, and sockets that lead to machines."""
    private = bench.store.state / "nix-ferry"
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    if trap == "link":
        private.symlink_to(theirs)
    else:
        private.mkdir()
        private.chmod(0o777 if trap == "open" else 0o700)
        os.chown(private, 12345 if trap == "foreign" else -1, -1)
    outcome = bench.build(bench.machine("ok"))
    assert outcome.answers == ["# accept"]
    # In a store of another user, nobody has done anything wrong.
    assert ("other users could change what is in it" in outcome.messages) == (trap != "foreign")
    assert list(theirs.iterdir()) == []
    assert trap == "link" or list(private.iterdir()) == []


# Bad input


def test_a_bad_line_of_builders_costs_one_warning(bench: Bench) -> None:
    """Stock aborts the user's whole command; here the other machines stay usable."""
    outcome = bench.build("ssh-ng://b1 x86_64-linux - many", bench.machine("ok"))
    assert outcome.status == 0
    assert outcome.messages.count("warning:") == 1
    assert "many" in outcome.messages


@pytest.mark.parametrize("willing", [True, False], ids=["here", "elsewhere"])
@pytest.mark.parametrize("missing", ["file", "row", "sense"])
def test_a_derivation_that_cannot_be_read_is_declined(bench: Bench, missing: str, willing: bool) -> None:
    """Nix can still build it here, or else its own hook may understand more; nothing was sent anywhere."""
    real = bench.store.real / Path(bench.store.drv_path).name
    drv_path = bench.store.drv_path
    if missing == "file":
        real.unlink()
    elif missing == "row":
        drv_path = drv_path.replace("-tiny", "-other")
    else:
        real.chmod(0o644)
        real.write_text("Derive(")
    outcome = bench.hook(bench.preamble([bench.machine("ok")]) + bench.request(drv_path, am_willing=willing))
    assert outcome.answers == ["# decline"] if willing else outcome.by_stock
    assert drv_path in outcome.messages


def test_every_truncation_is_answered(bench: Bench) -> None:
    """A closed standard input never leaves Nix without an answer, or a build half done."""
    data = bench.preamble([bench.machine("ok")]) + bench.request()
    for cut in (1, 8, 20, len(data) // 2, len(data) - 1):
        outcome = bench.hook(data[:cut])
        assert outcome.by_stock
        assert bench.stock.given == data[:cut]
        assert "cannot understand Nix: the request ends in the middle" in outcome.messages


def test_standard_input_closed_after_the_accept_builds_nothing(bench: Bench) -> None:
    """Without the list of inputs there is nothing to build."""
    outcome = bench.hook(bench.preamble([bench.machine("ok")]) + bench.request())
    assert outcome.answers == ["# accept"]
    assert outcome.status == 1
    assert not bench.outputs_valid()


def test_an_empty_standard_input_is_no_error(bench: Bench) -> None:
    """Nix starts hooks that it then does not need."""
    outcome = bench.hook(b"")
    assert (outcome.status, outcome.lines) == (0, [])


def test_an_unknown_request_is_answered(bench: Bench) -> None:
    """A newer Nix may ask something else, which its own hook understands."""
    w = Writer()
    w.string("juggle")
    outcome = bench.hook(bench.preamble([]) + w.take())
    assert outcome.by_stock
    assert "unknown request 'juggle'" in outcome.messages


def test_a_verbosity_that_is_no_number_is_said_and_survived(bench: Bench) -> None:
    """Somebody runs the hook by hand."""
    outcome = bench.build(bench.machine("ok"), argument="loud")
    assert outcome.status == 0
    assert "got 'loud'" in outcome.messages


def test_an_unreadable_machines_file_is_named(bench: Bench, tmp_path: Path) -> None:
    """Stock aborts; Nix can go on alone."""
    outcome = bench.ask(f"@{tmp_path}")
    assert outcome.answers == ["# decline-permanently"]
    assert str(tmp_path) in outcome.messages


# The stock hook


def test_what_is_not_handled_reaches_the_stock_hook_whole(bench: Bench) -> None:
    """Same settings, same request, same verbosity; its answers and its status are the ones Nix sees."""
    data = bench.preamble([bench.machine("ok", scheme="mounted-ssh-ng")]) + bench.request()
    outcome = bench.hook(data + b"what follows")
    assert outcome.by_stock
    assert "handing" in outcome.messages
    assert bench.stock.given == data + b"what follows"
    assert bench.stock.arguments == ["4"]


def test_a_schema_that_is_not_known_is_left_to_the_stock_hook(bench: Bench) -> None:
    """Found while the machine is connected; its slot must be free again for the stock hook."""
    (bench.store.state / "db/schema").write_text("11")
    data = bench.preamble([bench.machine("ok")]) + bench.request()
    outcome = bench.hook(data)
    assert outcome.by_stock
    assert "the store's schema is '11'" in outcome.messages
    assert bench.stock.given == data
    assert bench.stock.busy == ""


def test_bad_lines_are_kept_from_the_stock_hook(bench: Bench) -> None:
    """One of them would make it abort the user's command."""
    good = bench.machine("ok", scheme="mounted-ssh-ng")
    data = bench.preamble(["ssh://b1 x86_64-linux - many", good]) + bench.request()
    assert bench.hook(data).by_stock
    assert b"many" not in bench.stock.given
    assert good.split()[0].encode() in bench.stock.given


def test_without_a_stock_hook_the_answer_is_a_decline(bench: Bench, tmp_path: Path) -> None:
    """Better built here than not at all."""
    data = bench.preamble([bench.machine("ok", scheme="mounted-ssh-ng")]) + bench.request()
    outcome = bench.hook(data, PATH=str(tmp_path))
    assert outcome.answers == ["# decline-permanently"]
    assert "cannot find the stock build hook" in outcome.messages


# A broker elsewhere

ELSEWHERE = 'mount --bind "$0" "$1" && shift && exec "$@"'


@pytest.mark.lab
def test_a_store_that_the_broker_does_not_see_is_written_by_the_hook_itself(tmp_path: Path) -> None:
    """The first hook's broker serves the second, too, which runs in a sandbox with another store in the same place."""
    with Bench(tmp_path, broker=True) as bench:
        other = tmp_path / "other"
        shutil.copytree(bench.store.root / "nix", other, symlinks=True)
        assert bench.ask(bench.machine("ok")).answers == ["# accept"]
        broker = bench.broker_pid()
        data = bench.preamble([bench.machine("ok")]) + bench.request() + bench.job()
        inside = ["unshare", "--mount", "sh", "-c", ELSEWHERE, str(other), str(bench.store.root / "nix"), HOOK, "4"]
        done = subprocess.run(inside, input=data, env=bench.environ(), stderr=subprocess.PIPE, check=False)
        assert done.returncode == 0
        assert not bench.outputs_valid()
        assert (other / "store" / Path(bench.store.outputs["out"]).name).exists()
        assert bench.build(bench.machine("ok")).status == 0
        assert bench.outputs_valid()
        assert bench.broker_pid() == broker


def test_the_build_of_a_lone_hook_is_in_the_history(tmp_path: Path) -> None:
    """It writes it itself, at its end: nobody else knows of it."""
    with Bench(tmp_path, broker=False) as bench:
        assert bench.build(bench.machine("ok")).status == 0
        assert bench.build(bench.machine("build-fails")).status == 1
        directory = str(bench.store.state / "nix-ferry")
        assert sorted(entry["outcome"] for entry in BUILDS.read(directory)) == ["built", "failed"]
