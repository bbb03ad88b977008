"""Makes text from outside safe to print."""


def printable(text: str, limit: int = 300) -> str:
    """Return `text` with unprintable characters escaped, cut to `limit` characters."""
    if len(text) <= limit and text.isprintable():
        return text
    escaped = "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text[: limit + 1]
    )
    return escaped if len(escaped) <= limit else escaped[: limit - 1] + "…"


def encodable(text: str) -> bool:
    """Return whether `text` can be encoded as UTF-8: it has no lone surrogates."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
