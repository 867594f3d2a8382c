"""Files to NAR and NAR to files, by the C module; its error codes become messages here.

A Dumper and a Restorer hold descriptors until closed, and each is used by one thread at a time; other threads run
while they work.  Neither decides where a NAR comes from or goes to, nor what becomes of a half-restored tree.
Grammar, limits and canonical form are the C module's.  Tested in test_nar.py and test_nar_disk.py.
"""

import errno
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NoReturn, Self

from hook._native import ffi, lib
from hook.errors import NarError, printable

if TYPE_CHECKING:
    from hook._native import CData

_NO_LIMIT = (1 << 32) - 1

_INVALID = {
    lib.NAR_E_MAGIC: "input doesn't look like a Nix archive",
    lib.NAR_E_TAG: "expected tag '{expected}', got '{detail}'",
    lib.NAR_E_TYPE: "unknown file type '{detail}'",
    lib.NAR_E_NAME: "NAR contains invalid file name '{detail}'",
    lib.NAR_E_ORDER: "NAR directory is not sorted",
    lib.NAR_E_MARKER: "executable marker has non-empty value",
    lib.NAR_E_TARGET: "invalid symlink target",
    lib.NAR_E_LENGTH: "string is too long",
    lib.NAR_E_PADDING: "non-zero padding",
    lib.NAR_E_DEPTH: "NAR directory nesting exceeds maximum depth of {levels}",
    lib.NAR_E_FILETYPE: "unsupported file type",
    lib.NAR_E_CHANGED: "file changed its size while it was read",
}
"""Stock's words where stock has some, Nix 2.34."""


def _raise(error: "CData", root: str, max_depth: int | None) -> NoReturn:
    below = ffi.unpack(error.path, min(error.path_len, ffi.sizeof(error.path)))
    path = root + ("/…" if error.path_len > len(below) else "") + os.fsdecode(below)
    if error.code == lib.NAR_E_OS:
        raise OSError(error.os_error, os.strerror(error.os_error), path)
    text = _INVALID[error.code].format(
        expected=ffi.string(error.expected).decode() if error.expected else "",
        detail=printable(os.fsdecode(bytes(ffi.buffer(error.detail, error.detail_len)))),
        levels=(lib.NAR_DEPTH_CEILING if max_depth is None else max_depth) + 1,
    )
    raise NarError(f"'{printable(path)}': {text}")


class Dumper:
    """The NAR of the file, directory or symlink at `path`, piece by piece.

    `size` is the number of bytes read so far.  Nodes deeper than `max_depth` are refused (the root is at 0; None sets
    no limit, 63 is that of Nix since 2.28.7).  OSError: a file could not be read.  NarError: a NAR cannot hold it, or
    it changed meanwhile.  Both are final.  `hashing`: so that there is a `digest`.
    """

    def __init__(self, path: str, max_depth: int | None = None, *, hashing: bool = True) -> None:
        self.size = 0
        self._path, self._max_depth = path, max_depth
        self._digest: bytes | None = None
        self._closed = False
        out = ffi.new("struct dumper **")
        code = lib.dumper_new(os.fsencode(path), _NO_LIMIT if max_depth is None else max_depth, hashing, out)
        if code:
            raise OSError(code, os.strerror(code), path)
        self._dumper = ffi.gc(out[0], lib.dumper_free)

    def read_into(self, buffer: bytearray | memoryview) -> int:
        """Fill `buffer`, which must not be empty; the number of bytes put, short only at the end, then 0."""
        if self._closed:
            raise ValueError("this dumper is closed")
        if not len(buffer):
            raise ValueError("nowhere to read to")
        # Released at once: an exception's traceback would keep it, and Python crashes when its collector then meets a
        # memoryview that is still exported.
        with ffi.from_buffer("uint8_t[]", buffer, require_writable=True) as target:
            size = lib.dumper_read(self._dumper, target, len(target))
        if size < 0:
            _raise(lib.dumper_error(self._dumper), self._path, self._max_depth)
        if size < len(buffer) and (digest := lib.dumper_digest(self._dumper)):
            self._digest = bytes(ffi.buffer(digest, 32))
        self.size += size
        return size

    def digest(self) -> bytes:
        """SHA-256 of the NAR; only after its end, and with `hashing`."""
        if self._digest is None:
            raise ValueError("the NAR has not ended yet, or is not hashed")
        return self._digest

    def close(self) -> None:
        """Release descriptors and memory; may be called again."""
        self._closed = True
        ffi.release(self._dumper)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def nar_hash(path: str, buffer: bytearray, between: Callable[[], object] = lambda: None) -> bytes:
    """SHA-256 of the NAR of `path`, read through `buffer`; errors are those of Dumper.

    `between` is called after each bufferful.
    """
    with Dumper(path) as dumper:
        while dumper.read_into(buffer):
            between()
        return dumper.digest()


class Restorer:
    """Creates `dest`, which must not exist, from a NAR that comes in pieces, in the canonical form of a store object.

    `size` is the number of bytes consumed so far, `done` whether the NAR is complete, and so is `dest`.
    `max_depth` as for Dumper.  `fsync`: everything is on disk once done.  Extended attributes that the file system
    adds by itself are removed, except `kept_xattrs`.  The first error is final and leaves what was created.
    OSError: `dest` exists, or a system call failed.  NarError: the bytes are no valid NAR.
    """

    def __init__(
        self, dest: str, *, max_depth: int | None = None, fsync: bool = False, kept_xattrs: Sequence[str] = ()
    ) -> None:
        self.size = 0
        self.done = False
        self._dest, self._max_depth = dest, max_depth
        self._digest: bytes | None = None
        self._closed = False
        parent, name = os.path.split(dest)
        if name in ("", ".", ".."):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), dest)
        kept = b"".join(os.fsencode(xattr) + b"\0" for xattr in kept_xattrs)
        limit = _NO_LIMIT if max_depth is None else max_depth
        out = ffi.new("struct restorer **")
        code = lib.restorer_new(os.fsencode(parent or "."), os.fsencode(name), limit, fsync, kept, len(kept), out)
        if code:
            raise OSError(code, os.strerror(code), parent)
        self._restorer = ffi.gc(out[0], lib.restorer_free)

    def feed(self, data: bytes | bytearray | memoryview) -> int:
        """Take the next bytes of the NAR; the number consumed: all of them unless the NAR ends within."""
        if self._closed:
            raise ValueError("this restorer is closed")
        with ffi.from_buffer("uint8_t[]", data) as source:  # released at once, as in Dumper.read_into
            size = lib.restorer_feed(self._restorer, source, len(source))
        if size < 0:
            _raise(lib.restorer_error(self._restorer), self._dest, self._max_depth)
        self.size += size
        if digest := lib.restorer_digest(self._restorer):
            self._digest = bytes(ffi.buffer(digest, 32))
            self.done = True
        return size

    def digest(self) -> bytes:
        """SHA-256 of the NAR; only once done."""
        if self._digest is None:
            raise ValueError("the NAR has not ended yet")
        return self._digest

    def close(self) -> None:
        """Release descriptors and memory; may be called again.  An incomplete `dest` stays as it is."""
        self._closed = True
        ffi.release(self._restorer)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
