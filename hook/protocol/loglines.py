"""Lines of a build log out of a daemon's messages and into JSON, as many as have arrived, in one C call.

A talkative build sends little else, and a Python object for each line costs more than everything a daemon, two ssh and
Nix do with it.  What is no plain line is left to the client.  Pure: bytes in, bytes out.  Tested in
protocol/test_loglines.py against a Python reference.
"""

from hook._native import ffi, lib

OUT_BYTES = 128 << 10


class LogLines:
    """One conversion at a time, through one buffer."""

    def __init__(self, room: int = OUT_BYTES) -> None:
        self._out = ffi.new_allocator(should_clear_after_alloc=False)("uint8_t[]", room)
        self._sizes = ffi.new("struct logline_sizes *")

    def take(self, data: bytes | memoryview, activity: int, before: bytes, after: bytes) -> tuple[memoryview, int, int]:
        """What the lines of `activity` that `data` starts with become; how many bytes of `data`, and of log, they are.

        Each is its text, as the inside of a JSON string, between `before` and `after`.  The result is valid until the
        next call.
        """
        around = (ffi.from_buffer("char[]", before), ffi.from_buffer("char[]", after))
        frame = ffi.new("struct logline_frame *", (*around, len(before), len(after)))
        with ffi.from_buffer("uint8_t[]", data) as source:
            size = lib.loglines_take(source, len(source), activity, frame, self._out, len(self._out), self._sizes)
        return ffi.buffer(self._out, self._sizes.written), size, self._sizes.text
