"""Framed streams: u64 size, that many bytes without padding, again, until a size of 0.

How NARs travel inside worker operations.  Frame borders mean nothing to what is inside.  Pure: bytes in, bytes out,
nothing copied, nothing buffered but a cut size.  Tested in test_native_wire.py for every split of the input.
"""

from hook._native import ffi, lib


class FrameReader:
    """Takes frames apart; `done` once the terminator was read."""

    def __init__(self) -> None:
        self.done = False
        self._frame = ffi.new("struct frame_source *")
        self._out = ffi.new("uint8_t **")
        self._length = ffi.new("size_t *")

    def feed(self, data: bytes | bytearray | memoryview) -> tuple[list[memoryview], int]:
        """The pieces of payload in `data`, and how much of `data` was consumed: all of it unless the stream ends."""
        view = memoryview(data)
        pieces = []
        at = 0
        while at < len(view) and not self.done:
            with ffi.from_buffer("uint8_t[]", view[at:]) as source:
                at += lib.frame_take(self._frame, source, len(source), self._out, self._length)
            if size := self._length[0]:
                pieces.append(view[at - size : at])
            self.done = bool(self._frame.done)
        return pieces, at
