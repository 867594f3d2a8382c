"""Builds, durations and sizes as people read them.  Pure; tested in test_words.py."""

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


def size(count: int) -> str:
    """With at most three digits before the unit."""
    amount, step = float(count), 0
    while amount >= 999.5 and step + 1 < len(STEPS):
        amount, step = amount / 1000, step + 1
    return f"{amount:.0f} {STEPS[step]}" if amount >= 9.95 or step == 0 else f"{amount:.1f} {STEPS[step]}"


def rate(bytes_per_s: float) -> str:
    """How fast something is copied; empty if nothing is."""
    return f"{size(round(bytes_per_s))}/s" if bytes_per_s >= 1 else ""
