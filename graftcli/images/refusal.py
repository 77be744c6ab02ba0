"""Why one file is not read, while all others are."""

LARGEST_FILE = 256 * 2**20


class Refused(Exception):
    """Why one file is not read."""


def bounded(size: int) -> None:
    """Raise Refused for a file that is larger than any image."""
    if size > LARGEST_FILE:
        raise Refused(f"its size is {size / 2**20:,.0f} MiB; {LARGEST_FILE // 2**20} MiB is the most that is read")
