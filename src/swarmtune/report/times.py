"""Time spans as people read them. Light to import: every command shows them."""

from __future__ import annotations


def clock_text(seconds: float) -> str:
    """A time span for people: 42s, 3m05s, 2h10m."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    return f"{whole // 60}m{whole % 60:02d}s" if whole < 3600 else f"{whole // 3600}h{whole % 3600 // 60:02d}m"
