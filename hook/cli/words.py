"""Builds, machines, durations and sizes as people read them.  Pure; tested in test_words.py."""

from collections import Counter
from collections.abc import Iterable

STEPS = ("B", "KB", "MB", "GB", "TB")


def derivation_name(drv_path: str) -> str:
    """The part of a derivation path that people read."""
    return drv_path.rpartition("/")[2].partition("-")[2].removesuffix(".drv") or drv_path


def duration(seconds: float) -> str:
    """In the two largest units."""
    tenths = round(max(seconds, 0) * 10)
    if tenths < 600:
        return f"{tenths / 10:.1f} s"
    whole = tenths // 10
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def brief(seconds: float) -> str:
    """The same in at most six characters, for a column."""
    said = duration(seconds) if seconds < 9.95 or seconds >= 59.5 else f"{seconds:.0f} s"
    return said.replace(" min", "m").replace(" ", "")


def short_names(addresses: Iterable[str]) -> dict[str, str]:
    """What machines are called where there is little room: as much of each address as tells it from the others."""
    names = {address: _names(address) for address in addresses}
    counts = Counter(name for ways in names.values() for name in set(ways))
    return {address: next((name for name in ways if counts[name] == 1), address) for address, ways in names.items()}


def _names(address: str) -> tuple[str, ...]:
    """The host without its domain, the host, the host with user and port, and the whole address."""
    _, scheme, rest = address.rpartition("://")
    place = rest.partition("?")[0]
    if not scheme or not place:
        return (address,)
    host = place.rpartition("@")[2]
    # An IPv6 address is full of colons.
    host = host.partition(":")[0] if host.count(":") == 1 else host
    is_number = ":" in host or host.replace(".", "").isdecimal()
    return host if is_number else host.partition(".")[0] or host, host, place, address


def shortened(text: str, width: int) -> str:
    """`text` in at most `width` characters, without its middle: both ends of a name tell it from others."""
    if len(text) <= width:
        return text
    tail = (width - 1) // 2
    return f"{text[: width - 1 - tail]}…{text[len(text) - tail :]}" if width > 0 else ""


def size(count: int) -> str:
    """With at most three digits before the unit."""
    amount, step = float(count), 0
    while amount >= 999.5 and step + 1 < len(STEPS):
        amount, step = amount / 1000, step + 1
    return f"{amount:.0f} {STEPS[step]}" if amount >= 9.95 or step == 0 else f"{amount:.1f} {STEPS[step]}"


def rate(bytes_per_s: float) -> str:
    """How fast something is copied; empty if nothing is."""
    return f"{size(round(bytes_per_s))}/s" if bytes_per_s >= 1 else ""
