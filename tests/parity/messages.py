"""What a command said, reduced to what ought to be the same in every run.

Handles text as users see it and the JSON log that progress displays are made from.
"""

import json
import re
from typing import Any

from hook.protocol.activity import ResultType, Verbosity

ENDS = re.compile(r""" (?:to|from) '[^']*'|(?<="), "[^"]*", "[^"]*"(?=\])""")
"""Where a path is copied from and to, in the text and in the fields of its activity."""


REFUSED = "plugin-files set after plugins were loaded"
"""What a daemon of Nix 2.8 says to the settings that stock, unlike us, sends to a socket."""


def comparable(stderr: str, unseen: set[ResultType], *, here: bool = False) -> list[str]:
    """Return the lines of stderr without what differs from run to run, and without `unseen` results of the JSON log.

    Sorted: builds run side by side, and paths are copied in no order.  With `here` the machines are on the client:
    stock calls both stores `local`, and drops the parameters of `localhost`.
    """
    lines = []
    texts: dict[int, str] = {}
    for line in stderr.splitlines():
        if here and REFUSED in line:
            continue
        shown = line
        if line.startswith("@nix "):
            event = json.loads(line.removeprefix("@nix "))
            if event["action"] == "start":
                texts[event["id"]] = event["text"]
            if not seen(event, unseen):
                continue
            event["id"] = texts.get(event.get("id", 0))
            event["parent"] = texts.get(event.get("parent", 0))
            shown = json.dumps(event, sort_keys=True)
        # Nix 2.26 leaves out the machine's name here.
        if "copying path" in shown:
            shown = ENDS.sub("", shown) if here else re.sub(r"ssh-ng://[\w.@-]*", "(builder)", shown)
        lines.append(shown)
    return sorted(lines)


def seen(event: dict[str, Any], unseen: set[ResultType]) -> bool:
    """Whether a progress display at the usual verbosity would look different without this event."""
    match event:
        case {"action": "stop"} | {"action": "result", "type": ResultType.SET_EXPECTED, "fields": [_, 0]}:
            return False
        case {"action": "start", "level": level}:
            return int(level) <= Verbosity.INFO
        case {"action": "result", "type": kind}:
            return kind not in unseen
    return True
