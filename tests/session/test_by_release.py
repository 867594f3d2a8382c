"""What depends on the release of the Nix that asks, with scripted machines; a release is known by its settings.

Releases in the lab are compared with stock in tests/parity.
"""

from collections.abc import Mapping

import pytest

from hook.protocol.wire import Writer
from tests.fakes.bench import SYSTEM, Bench, Outcome

BEFORE_2_30 = {"fsync-store-paths": "false"}
FROM_2_30 = BEFORE_2_30 | {"json-log-path": ""}
FROM_2_35 = FROM_2_30 | {"filetransfer-retry-attempts": "5"}

KEPT = "The failed build directory was kept on the remote builder due to `--keep-failed`."
WHAT_TO_DO = " You can re-run the command with `--builders ''` to disable remote building for this invocation."


def warnings(outcome: Outcome) -> list[str]:
    """The warnings among its messages, without their colour."""
    said = [str(event["msg"]) for event in outcome.events if event["action"] == "msg" and event["level"] == 1]
    return [text.removeprefix("\x1b[35;1mwarning:\x1b[0m ") for text in said]


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        pytest.param(FROM_2_30 | {"keep-failed": "true"}, [KEPT + WHAT_TO_DO], id="system of this host"),
        pytest.param(
            FROM_2_30 | {"keep-failed": "true", "system": "riscv64-linux", "extra-platforms": f"i686-linux {SYSTEM}"},
            [KEPT + WHAT_TO_DO],
            id="extra platform",
        ),
        pytest.param(
            FROM_2_30 | {"keep-failed": "true", "system": "riscv64-linux"}, [KEPT], id="not for this host to build"
        ),
        pytest.param(FROM_2_35 | {"keep-failed": "true"}, [KEPT + WHAT_TO_DO], id="2.35"),
        pytest.param(BEFORE_2_30 | {"keep-failed": "true"}, [], id="before 2.30"),
        pytest.param(FROM_2_30 | {"keep-failed": "false"}, [], id="not asked for"),
    ],
)
@pytest.mark.parametrize("behaviour", ["build-fails", "cannot-build", "untrusting,build-fails"])
def test_a_failure_says_that_its_directory_was_kept(
    bench: Bench, behaviour: str, settings: Mapping[str, str], told: list[str]
) -> None:
    """In stock's words and once, just before the failure itself."""
    outcome = bench.build(bench.machine(behaviour), **settings)
    assert outcome.status == 1
    assert warnings(outcome) == told
    last = [str(event["msg"]) for event in outcome.events if event["action"] == "msg"][-len(told) - 1 :]
    assert [KEPT in text for text in last] == [True] * len(told) + [False]


def test_a_success_keeps_nothing(bench: Bench) -> None:
    assert warnings(bench.build(bench.machine("ok"), **FROM_2_30, keep_failed="true")) == []


@pytest.mark.parametrize(
    ("settings", "said"),
    [(FROM_2_30, ["copying 0 paths", "copying 2 paths"]), (FROM_2_35, ["copying 2 paths"])],
    ids=["before 2.35", "2.35"],
)
def test_a_copy_of_nothing_is_mentioned_as_stock_does(
    bench: Bench, settings: Mapping[str, str], said: list[str]
) -> None:
    """Users see this line for each build whose inputs are there already."""
    w = Writer()
    w.strings([])
    w.strings(["dev", "out"])
    preamble = bench.preamble([bench.machine("careless")], **settings)
    outcome = bench.hook(preamble + bench.request() + w.take())
    assert outcome.status == 0
    assert [text for text in outcome.texts if text.endswith(" paths")] == said
    assert "copying dependencies to" in " ".join(outcome.texts)
    assert bench.outputs_valid()


def test_floating_outputs_that_are_valid_already_are_not_copied(bench: Bench) -> None:
    """Only their realisations are missing here: the same silence, and they are registered all the same."""
    drv_path, _ = bench.store.add_floating("BuildTraceV3")
    settings = FROM_2_35 | {"experimental-features": "ca-derivations"}
    assert bench.build(bench.machine("ok"), drv_path=drv_path, **settings).status == 0
    bench.store.empty("BuildTraceV3")
    again = bench.build(bench.machine("ok"), drv_path=drv_path, **settings)
    assert again.status == 0
    assert "copying outputs from" in " ".join(again.texts)
    assert not [text for text in again.texts if text.startswith("copying path") and " from " in text]
    assert "copying 0 paths" not in again.texts
    assert len(bench.store.rows("select * from BuildTraceV3")) == 2


RELEASES = {"2.8": {}, "2.34": FROM_2_30 | {"narinfo-cache-meta-ttl": "0"}, "2.35": FROM_2_35}


@pytest.mark.parametrize("here", RELEASES)
@pytest.mark.parametrize("there", RELEASES)
def test_an_output_that_contains_its_path_is_made_by_the_rule_of_this_release(
    bench: Bench, here: str, there: str
) -> None:
    """One made by another rule is refused, as by stock, and another machine is tried."""
    drv_path, _ = bench.store.add_floating("Realisations", "BuildTraceV3")
    settings = RELEASES[here] | {"experimental-features": "ca-derivations"}
    strange = bench.machine(f"nix-{there},self-references", "strange", speed=9)
    same = bench.machine(f"nix-{here},self-references", "same")
    outcome = bench.build(strange, same, drv_path=drv_path, **settings)
    assert outcome.status == 0
    refused = "hashes such objects otherwise" in outcome.messages
    assert refused is ((here == "2.34") is not (there == "2.34"))
    assert ("was lost (what it sent is refused: ca hash mismatch" in outcome.messages) is refused
    assert len(bench.store.rows("select * from BuildTraceV3")) == 2
