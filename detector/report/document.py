"""The frame of a page: one file that fetches nothing and runs nothing, for a screen of any width, light or dark."""

import base64
import hashlib
from typing import Final

from detector.report.html import Html, tag, together

GENERATOR: Final = "detector report"
_STYLE: Final = """
:root { color-scheme: light dark; --ink: #1c1c1c; --faint: #666; --back: #fff; --card: #f4f4f4; --line: #ddd;
  --link: #0072b2; --shade: #0005 }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8e8e8; --faint: #a0a0a0; --back: #141414; --card: #202020; --line: #383838; --link: #56b4e9;
    --shade: #fff6 }
  img.plot { filter: invert(0.92) hue-rotate(180deg) }
}
* { box-sizing: border-box }
body { margin: 0 auto; padding: 1rem; max-width: 72rem; color: var(--ink); background: var(--back);
  font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere }
h1 { font-size: 1.6rem; margin: 0.5rem 0 } h2 { font-size: 1.25rem; margin: 2.2rem 0 0.6rem } h3 { font-size: 1rem }
nav { display: flex; flex-wrap: wrap; gap: 0.2rem 1rem } a { color: var(--link) }
p, li { max-width: 46rem } .faint, figcaption { color: var(--faint); font-size: 0.875rem }
.wide { overflow-x: auto; background: linear-gradient(to right, var(--back) 2rem, transparent),
    linear-gradient(to left, var(--back) 2rem, transparent) 100% 0,
    linear-gradient(to right, var(--shade), transparent), linear-gradient(to left, var(--shade), transparent) 100% 0;
  background-size: 4rem 100%, 4rem 100%, 1rem 100%, 1rem 100%; background-repeat: no-repeat;
  background-attachment: local, local, scroll, scroll }
.broad { min-width: 42rem }
table { border-collapse: collapse; font-size: 0.9rem; font-variant-numeric: tabular-nums }
th, td { text-align: left; overflow-wrap: normal; padding: 0.2rem 0.8rem 0.2rem 0;
  border-bottom: 1px solid var(--line) }
.n { text-align: right }
.numbers { display: flex; flex-wrap: wrap; gap: 0.8rem; margin: 1rem 0 }
.numbers div { background: var(--card); border-radius: 0.5rem; padding: 0.6rem 1rem }
.numbers b { display: block; font-size: 1.5rem } .numbers span { color: var(--faint); font-size: 0.875rem }
.grid { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(min(100%, 21rem), 1fr)) }
.plots { grid-template-columns: repeat(auto-fill, minmax(min(100%, 26rem), 1fr)) }
.crops { display: grid; gap: 0.8rem; grid-template-columns: repeat(auto-fill, minmax(9.5rem, 1fr)) }
figure { margin: 0 } figcaption { margin-top: 0.2rem }
img { max-width: 100%; height: auto; display: block; border-radius: 0.3rem }
pre { background: var(--card); padding: 0.7rem; border-radius: 0.5rem; overflow-x: auto; font-size: 0.85rem;
  white-space: pre-wrap }
summary { cursor: pointer; color: var(--link); margin: 0.5rem 0 }
@media (max-width: 30rem) {
  .numbers { gap: 0.5rem } .numbers div { flex: 1; padding: 0.5rem 0.6rem } .numbers div span { font-size: 0.78rem }
}
.right { color: #009e73 } .wrong { color: #d55e00 } .missed { color: #2f8fd0 }
"""


def page(title: str, *sections: Html) -> str:
    """A whole document. Its policy lets nothing in but images within it and this very style."""
    digest = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode("ascii")
    policy = f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="referrer", content="no-referrer"),
        tag("meta", name="generator", content=GENERATOR),
        tag("title", title),
        Html(f"<style>{_STYLE}</style>"),
    )
    return "<!DOCTYPE html>\n" + tag("html", head, tag("body", tag("h1", title), *sections), lang="en") + "\n"


def section(name: str, title: str, *children: Html | None) -> Html:
    return tag("section", tag("h2", title), *children, id=name)


def contents(entries: list[tuple[str, str]]) -> Html:
    return tag("nav", *(tag("a", title, href=f"#{name}") for name, title in entries))


def folded(summary: str, *children: Html) -> Html:
    return tag("details", tag("summary", summary), *children)


def numbers(entries: list[tuple[str, str, str]]) -> Html:
    """Cards of (name, value, remark)."""
    cards = [tag("div", tag("span", name), tag("b", value), tag("span", remark)) for name, value, remark in entries]
    return tag("div", *cards, class_="numbers")


def figure(uri: str, caption: Html | str, *, alt: str, is_plot: bool = False, is_broad: bool = False) -> Html:
    """A broad picture could not be read on a telephone, so it scrolls by itself there."""
    kinds = [name for name, holds in (("plot", is_plot), ("broad", is_broad)) if holds]
    image = tag("img", src=uri, alt=alt, class_=" ".join(kinds) or None)
    framed = tag("div", image, class_="wide") if is_broad else image
    return tag("figure", framed, tag("figcaption", caption))


def paragraphs(*texts: str) -> Html:
    return together(*(tag("p", text) for text in texts))
