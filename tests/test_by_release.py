"""What depends on the release of the Nix that asks, with scripted machines; a release is known by its settings.

Releases in the lab are compared with stock in tests/parity.
"""

from collections.abc import Mapping

import pytest

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
