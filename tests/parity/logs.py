"""Scenarios of builds that print unusual things (tests/lab/graphs/logs.nix): what is shown, and what `nix log` keeps.

Stock loses part of a log of more than a few pages; see tests/lab/test_logs.py for those.
"""

from collections.abc import Callable, Sequence

from tests.lab.host import Host, Output
from tests.lab.offload import nix_build
from tests.parity.scenarios import Scenario

KINDS = ("bytes", "progress", "phases", "fakes")
JSON = ("--log-format", "internal-json")
SSH = "ssh://"
NOT_KEPT = ("--option", "keep-build-log", "false")


def _build(*attributes: str, options: Sequence[str] = ()) -> Callable[[Host, Host], Sequence[Output]]:
    def act(client: Host, _builder: Host) -> Sequence[Output]:
        return [client.run(nix_build(*attributes, seed="parity", graph="logs", options=options), check=False)]

    return act


SCENARIOS = (
    # In text, a line that only pretends to be an event cannot be told from one.
    Scenario("logs", _build(*KINDS[:-1])),
    Scenario("logs, as JSON", _build(*KINDS, options=JSON)),
    Scenario("logs, ssh, as JSON", _build(*KINDS, options=JSON), prefix=SSH),
    Scenario("log of a failure", _build("failing"), status=1),
    Scenario("log of a failure, three lines", _build("failing", options=["--option", "log-lines", "3"]), status=1),
    Scenario("log of a failure, quiet", _build("failing", options=["--quiet", "--quiet"]), status=1),
    Scenario(
        "log of a failure, not kept", _build("failing", options=["--option", "keep-build-log", "false"]), status=1
    ),
)
