"""A channel over bytes in memory: reads come from what was recorded, writes are kept."""

from contextlib import AbstractContextManager, nullcontext

from hook.errors import ConnectionLost


class BytesSource:
    """Exact reads from `data`; ConnectionLost at its end, as a real stream raises it."""

    def __init__(self, data: bytes) -> None:
        self.left = data

    def read(self, size: int) -> bytes:
        if len(self.left) < size:
            raise ConnectionLost("unexpected end of file")
        data, self.left = self.left[:size], self.left[size:]
        return data

    def peek(self) -> bytes:
        return self.left

    def consume(self, size: int) -> None:
        self.left = self.left[size:]


class RecordedChannel(BytesSource):
    """A daemon's recorded answers; `sent` collects what the client wrote."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.sent = bytearray()
        self._marks: list[int] = []

    def mark(self) -> None:
        """The next request begins here."""
        self._marks.append(len(self.sent))

    def requests(self) -> list[bytes]:
        """What was sent, cut at the marks."""
        ends = [*self._marks[1:], len(self.sent)]
        return [bytes(self.sent[start:end]) for start, end in zip(self._marks, ends, strict=True)]

    def write(self, data: bytes | bytearray) -> None:
        self.sent += data

    def available(self) -> memoryview:
        if not self.left:
            raise ConnectionLost("unexpected end of file")
        return memoryview(self.left)

    def patience(self, silence_s: float | None) -> AbstractContextManager[None]:
        return nullcontext()
