"""One line of ours at the end of a file in the format of nix.conf, where it outdoes every line and include before it.

A comment above it tells readers whose it is, and `without_line` what was there before: the file comes out as it went
in, with what others changed in it meanwhile.  Pure; tested in test_confline.py.
"""

import re

ADDED = "# nix-ferry install added this line and the next; nix-ferry uninstall removes them."
JOINED = "# nix-ferry install ended the line above, and added this and the next; nix-ferry uninstall removes them."
CREATED = "# nix-ferry install made this file; nix-ferry uninstall removes it."

LINES = re.compile(rf"^({'|'.join(map(re.escape, (ADDED, JOINED, CREATED)))})\n(?:build-hook =[^\n]*(?:\n|\Z))?", re.M)


def with_line(text: str | None, line: str) -> str:
    """`text` with `line` as its last, in place of an earlier one of ours."""
    rest = None if text is None else without_line(text)
    if rest is None:
        return f"{CREATED}\n{line}\n"
    if rest and not rest.endswith("\n"):
        return f"{rest}\n{JOINED}\n{line}\n"
    return f"{rest}{ADDED}\n{line}\n"


def without_line(text: str) -> str | None:
    """`text` as it was before `with_line`; None if there was no file."""
    found = LINES.search(text)
    if found is None:
        return text
    before, after = text[: found.start()], text[found.end() :]
    # With lines of somebody else behind ours, the end of that line is needed.
    if found[1] == JOINED and not after:
        return before.removesuffix("\n")
    if found[1] == CREATED and not before + after:
        return None
    return before + after
