"""An upload as a plan: which bytes go where, without the NARs themselves.

Both protocols make such plans, so that one piece of code can carry them out.
"""

from dataclasses import dataclass

from hook.store.info import PathInfo


@dataclass(frozen=True, slots=True)
class Upload:
    """One operation: `request` as it is, then for each part its prefix and the NAR of its path.

    With `framed`, prefixes and NARs together travel in frames, which an empty frame ends.
    """

    request: bytes
    framed: bool
    parts: tuple[tuple[bytes, PathInfo], ...]
