"""Text of strangers as a terminal, a log or a table may show it."""


def visible(text: str) -> str:
    """Spell out what cannot be seen: file and class names come from other people's data.

    An escape sequence then steers no terminal, a line break makes no line of its own, and every letter that is left can
    be written as UTF-8.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
