"""An upload as a plan: which bytes go where, without the NARs themselves; and how both protocols speak of a path.

Both make such plans, so that one piece of code can carry them out.  Tested in transfer/test_upload.py.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from hook.errors import ProtocolError, StoreError
from hook.protocol.wire import Reader, Writer
from hook.values.info import PathInfo, format_hash_hex, parse_hash


@dataclass(frozen=True, slots=True)
class Upload:
    """One operation: `request` as it is, then for each part its prefix and the NAR of its path.

    With `framed`, prefixes and NARs together travel in frames, which an empty frame ends.  With `wanted` the other end
    asks for each piece of the one NAR, which is sent as a string: called when the request is sent and then after each
    piece, it says how many bytes the next may have, 0 when there is to be none, and raises RemoteError.
    """

    request: bytes
    framed: bool
    parts: Iterable[tuple[bytes, PathInfo]]
    wanted: Callable[[], int] | None = None


def write_path_info(w: Writer, info: PathInfo) -> None:
    """What both protocols say of a path before its NAR comes, in the form used since protocol 1.16."""
    w.string(info.deriver or "")
    w.string(format_hash_hex(info.nar_hash))
    w.strings(info.references)
    w.u64(info.registration_time)
    w.u64(info.nar_size)
    w.flag(info.ultimate)
    w.strings(info.signatures)
    w.string(info.ca)


def read_nar_hash(r: Reader) -> bytes:
    """The hash of a NAR, which a machine sends as text."""
    try:
        return parse_hash(r.text(), "sha256")
    except StoreError as error:
        raise ProtocolError(str(error)) from None
