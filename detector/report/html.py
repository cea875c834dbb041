"""Elements of a page. Whatever is not `Html` already is text, and cannot become anything else."""

import base64
import html
from typing import Final

from detector.printable import visible

_EMPTY: Final = frozenset({"img", "meta", "br"})


class Html(str):
    """Markup that this module has made."""

    __slots__ = ()


def tag(name: str, /, *children: "Html | str | int | None", **attributes: str | int | None) -> Html:
    """An element; `class_` stands for class, and an attribute of None is left out."""
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in _EMPTY:
        return Html(f"<{name}{given}>")
    return Html(f"<{name}{given}>{together(*children)}</{name}>")


def together(*children: "Html | str | int | None") -> Html:
    return Html(
        "".join(child if isinstance(child, Html) else escape(str(child)) for child in children if child is not None)
    )


def escape(text: str) -> str:
    """Text as it is safe between tags and in quoted attributes; what cannot be seen is spelt out."""
    return html.escape(visible(text), quote=True)


def lines(text: str) -> Html:
    """Text of several lines, which `pre` shows as such."""
    return Html("\n".join(escape(line) for line in text.split("\n")))


def data_uri(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def table(head: "list[str]", rows: "list[list[Html | str]]", *, numbers_from: int = 1) -> Html:
    """Columns from `numbers_from` on are right-aligned. Wide ones scroll by themselves."""

    def cell(kind: str, k: int, content: Html | str) -> Html:
        return tag(kind, content, class_="n" if k >= numbers_from else None)

    body = [tag("tr", *(cell("td", k, content) for k, content in enumerate(row))) for row in rows]
    top = tag("tr", *(cell("th", k, text) for k, text in enumerate(head)))
    return tag("div", tag("table", tag("thead", top), tag("tbody", *body)), class_="wide")
