"""Numbers of things in messages."""


def counted(count: int, thing: str, things: str = "") -> str:
    """ "1 row", "2,000 rows"; `things` where the plural is not made by an s."""
    return f"{count:,} {thing if count == 1 else things or thing + 's'}"
