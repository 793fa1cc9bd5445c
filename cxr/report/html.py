"""The page: one HTML file, style, script and pictures inside, no network; every string is escaped."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

__all__ = [
    "alarm",
    "bullets",
    "cell",
    "facts",
    "folded",
    "grid_table",
    "heading",
    "note",
    "number_in",
    "page",
    "pair",
    "picture",
    "run",
    "stack",
    "strip",
    "table",
    "top",
]


# a browser that opens the page loads nothing but what is inside it, and runs no script but ours (by its hash)
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{}'"
WIDE = 420  # points: a drawing wider than this is not legible when a phone shrinks it to its screen
DENSE = 10  # columns above which a table is set smaller
NUMBER = re.compile(r"[<>]?\s*([+−-]?\d[\d,]*(?:\.\d+)?)")


def page(
    title: str, kicker: str, byline: str, lead: Sequence[str], top: str, sections: Sequence[tuple[str, str]]
) -> str:
    """Return the document; `top` and the bodies of `sections` (title, body) are HTML made by this module."""
    css, script = (
        Path(__file__).with_name(f"page.{kind}").read_text(encoding="utf-8") for kind in ("css", "js")
    )
    policy = POLICY.format(base64.b64encode(hashlib.sha256(script.encode()).digest()).decode())
    contents = "".join(f'<a href="#s{i}">{escape(name)}</a> ' for i, (name, _) in enumerate(sections))
    body = "".join(
        f'<section id="s{i}"><h2>{escape(name)}</h2>\n{text}</section>\n'
        for i, (name, text) in enumerate(sections)
    )
    sentences = "".join(f"<p>{_prose(sentence)}</p>" for sentence in lead)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<title>{escape(title)}</title>
<style>
{css}</style>
</head>
<body><main>
<header><p class="kicker">{escape(kicker)}</p>
<h1>{escape(title)}</h1><p class="byline">{escape(byline)}</p></header>
<div class="lead">{sentences}</div>
{top}
<nav>{contents}</nav>
{body}</main>
<script>{script}</script>
</body>
</html>
"""


def facts(pairs: Sequence[tuple[str, str]]) -> str:
    """Return a line of labelled values."""
    cells = "".join(f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in pairs)
    return f'<dl class="facts">{cells}</dl>'


def alarm(title: str, items: Sequence[str]) -> str:
    """Return a box of things that a reader must know first; nothing when there are none."""
    if not items:
        return ""
    return f'<div class="alarm"><strong>{escape(title)}</strong>{bullets(items)}</div>'


def bullets(items: Iterable[str]) -> str:
    """Return a list."""
    return f"<ul>{''.join(f'<li>{_prose(item)}</li>' for item in items)}</ul>"


def heading(text: str) -> str:
    """Return a heading inside a section."""
    return f"<h3>{escape(text)}</h3>"


def note(text: str) -> str:
    """Return a small paragraph."""
    return f'<p class="note">{_prose(text)}</p>'


def picture(data: bytes, kind: str, caption: str, *, pixels: bool = False) -> str:
    """Return a figure with its image inside; `kind` is "svg+xml", "png" or "jpeg", `pixels` fits it to the column.

    A drawing keeps its own width (matplotlib writes it in points) and its caption keeps to that. On a phone one
    that would be too small to read can be moved sideways.
    """
    source = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    told = _prose(caption)
    size = re.search(rb'<svg [^>]*?width="([0-9.]+)pt"', data[:2000])
    pt = float(size[1]) if size else 0.0
    width = f' style="width:{pt * 4 / 3:.0f}px"' if size else ""
    css = _class("pixels" if pixels else "wide" if pt > WIDE else "")
    return (
        f'<figure{width}><div class="frame"><img{css} src="{source}" alt="{told}"></div>'
        f"<figcaption>{told}</figcaption></figure>"
    )


def strip(images: Sequence[tuple[bytes, str]], caption: str) -> str:
    """Return PNGs side by side, each with a short text below it, and one caption for all."""
    parts = "".join(
        f'<div><img src="data:image/png;base64,{base64.b64encode(data).decode()}" alt="{_prose(text)}">'
        f'<span class="small">{_prose(text)}</span></div>'
        for data, text in images
    )
    return f'<figure class="strip"><div class="row">{parts}</div><figcaption>{_prose(caption)}</figcaption></figure>'


def pair(figures: Sequence[str]) -> str:
    """Return figures side by side where there is room."""
    return f'<div class="pair">{"".join(figures)}</div>'


def folded(title: str, text: str) -> str:
    """Return text that keeps its lines and is shown on demand."""
    return f"<details><summary>{escape(title)}</summary><pre>{escape(text)}</pre></details>"


def run(name: str, lines: Sequence[str], warnings: Sequence[str], more: str = "") -> str:
    """Return one entry of the provenance; `more` is HTML made by this module."""
    small = "".join(f'<span class="small">{escape(line)}</span>' for line in lines)
    alarms = "".join(f'<span class="tag">{escape(w)}</span>' for w in warnings)
    return f'<div class="run"><p><code>{escape(name)}</code>{small}{alarms}</p>{more}</div>'


def grid_table(head: Sequence[str], body: Sequence[Sequence[str]], *, numbers: Sequence[int] = ()) -> str:
    """Return a table of text; the columns in `numbers` are set right and sort by the number they start with."""
    tops = "".join(top(h, i, number=i in numbers) for i, h in enumerate(head))
    rows = "".join(
        "<tr>"
        + "".join(
            f'<td class="name">{escape(text)}</td>'
            if i == 0
            else cell(head[i], _value(text), number=True, value=number_in(text))
            if i in numbers
            else cell(head[i], escape(text), number=False)
            for i, text in enumerate(row)
        )
        + "</tr>"
        for row in body
    )
    return table(f"<tr>{tops}</tr>", rows)


def _value(text: str) -> str:
    """Return a number with its interval, "0.91 [0.88, 0.93] (n = 40)", as one above the other; other text as it is."""
    if (found := re.fullmatch(r"(.+?) \[(\S+), (\S+)\](.*)", text)) is None:
        return escape(text)
    value, low, high, rest = found.groups()
    return stack(value, f"{low}{' to ' if low[0] in '-−' else '–'}{high}{rest}")


def cell(label: str, content: str, *, number: bool, css: str = "", value: float | None = None) -> str:
    """Return a cell that knows its heading, for narrow screens where rows become cards, and its sort value.

    `content` is HTML; a number without a value (n/a, —) sorts last whichever way.
    """
    names = " ".join((("number " if number else "") + css).split())
    sorted_by = "" if value is None else f' data-value="{value!r}"'
    return f'<td data-label="{escape(label)}"{_class(names)}{sorted_by}>{content}</td>'


def stack(value: str, small: str) -> str:
    """Return a value with a small line below it, if there is one."""
    below = f'<span class="small">{escape(small)}</span>' if small else ""
    return f"<span>{escape(value)}{below}</span>"


def top(text: str, column: int, *, number: bool = False, rows: int = 1) -> str:
    """Return the heading of a column, by which the table can be sorted."""
    span = f' rowspan="{rows}"' if rows > 1 else ""
    css = _class("number" if number else "")
    return f'<th scope="col" data-column="{column}"{css}{span}>{escape(text)}</th>'


def table(head: str, rows: str) -> str:
    """Return a table of the rows that `top` and `cell` make."""
    dense = " dense" if head.count(" data-column=") > DENSE else ""
    return (
        f'<div class="scroll"><table class="cards sortable{dense}"><thead>{head}</thead>'
        f"<tbody>{rows}</tbody></table></div>\n"
    )


def number_in(text: str) -> float | None:
    """Return the number that a text of the report starts with ("−0.30 to +1.10", "1,171 (685)"), else None."""
    found = NUMBER.match(text)
    return float(found[1].replace("−", "-").replace(",", "")) if found else None


def _prose(text: str) -> str:
    """Escape, and keep a number and its per cent sign on one line."""
    return escape(text).replace(" %", "\u00a0%")


def _class(names: str) -> str:
    return f' class="{names}"' if names else ""
