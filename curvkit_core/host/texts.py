"""Short texts about what went wrong, safe to print in a table."""

from __future__ import annotations


def one_line(error: BaseException, limit: int = 300) -> str:
    """Return ``Type: message``, its first line only, whatever the exception's own ``__str__`` does."""
    try:
        text = str(error)
    except Exception as worse:  # noqa: BLE001 - any error may come from an exception's own __str__
        text = f"(its text cannot be shown: {type(worse).__name__})"
    first = text.strip().split("\n", 1)[0].strip()
    if len(first) > limit:
        first = first[: limit - 3] + "..."
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def ascii_only(text: str) -> str:
    """Return `text` with everything beyond ASCII, and every control character, written as an escape."""
    plain = text.encode("ascii", "backslashreplace").decode("ascii")
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in plain)


def counted(number: int, one: str, many: str) -> str:
    """Return ``1 operator`` or ``2 operators``."""
    return f"{number} {one if number == 1 else many}"


def joined(names: list[str]) -> str:
    """Return ``a``, ``a and b`` or ``a, b and c``."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
