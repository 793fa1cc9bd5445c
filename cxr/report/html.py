"""The page: one HTML file, style and pictures inside, no script, no network; every string is escaped."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from cxr.report.export import interval, seed_spread, tested_on
from cxr.report.mark import tags
from cxr.report.spec import arm_name
from cxr.report.table import Cell, Row, Table, metric_title, percent_points, printed, show

__all__ = [
    "alarm",
    "bullets",
    "facts",
    "grid_table",
    "heading",
    "note",
    "page",
    "pair",
    "picture",
    "result_table",
    "run",
]


# a browser that opens the page loads nothing but what is inside it
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def page(
    title: str, kicker: str, byline: str, lead: Sequence[str], top: str, sections: Sequence[tuple[str, str]]
) -> str:
    """Return the document; `top` and the bodies of `sections` (title, body) are HTML made by this module."""
    css = Path(__file__).with_name("page.css").read_text(encoding="utf-8")
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
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
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
{body}</main></body>
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
    """Return a figure with its image inside; `kind` is "svg+xml" or "png", `pixels` fits it to the column.

    A drawing keeps its own width (matplotlib writes it in points) and its caption keeps to that.
    """
    source = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    css = ' class="pixels"' if pixels else ""
    told = _prose(caption)
    size = re.search(rb'<svg [^>]*?width="([0-9.]+)pt"', data[:2000])
    width = f' style="width:{float(size[1]) * 4 / 3:.0f}px"' if size else ""
    return f'<figure{width}><img{css} src="{source}" alt="{told}"><figcaption>{told}</figcaption></figure>'


def pair(figures: Sequence[str]) -> str:
    """Return figures side by side where there is room."""
    return f'<div class="pair">{"".join(figures)}</div>'


def run(name: str, lines: Sequence[str], warnings: Sequence[str]) -> str:
    """Return one entry of the provenance."""
    small = "".join(f'<span class="small">{escape(line)}</span>' for line in lines)
    alarms = "".join(f'<span class="tag">{escape(w)}</span>' for w in warnings)
    return f'<div class="run"><p><code>{escape(name)}</code>{small}{alarms}</p></div>'


def grid_table(head: Sequence[str], body: Sequence[Sequence[str]], *, numbers: Sequence[int] = ()) -> str:
    """Return a table of text; the columns in `numbers` are set right."""
    tops = "".join(f"<th{_right(i, numbers)}>{escape(h)}</th>" for i, h in enumerate(head))
    rows = "".join(
        "<tr>"
        + "".join(
            f'<td class="name">{escape(c)}</td>' if i == 0 else _labelled(head[i], escape(c), i in numbers)
            for i, c in enumerate(row)
        )
        + "</tr>"
        for row in body
    )
    return _table(f"<tr>{tops}</tr>", rows)


def result_table(table: Table) -> str:
    """Return a result table: per score the published value in a column of its own, ours with its interval."""
    published = {c.column: False for row in table.rows for c in row.cells}
    for cell in (c for row in table.rows for c in row.cells):
        published[cell.column] |= cell.published is not None
    several_arms = len({row.arm for row in table.rows}) > 1
    upper, lower = ['<th rowspan="2">Model</th>'], []
    for metric in table.metrics:
        if not published[metric]:
            upper.append(f'<th class="number" rowspan="2">{escape(metric_title(metric))}</th>')
            continue
        has_difference = metric == table.lead
        upper.append(f'<th class="group" colspan="{2 + has_difference}">{escape(metric_title(metric))}</th>')
        lower += ['<th class="number">paper†</th>', '<th class="number">ours</th>']
        lower += ['<th class="number">ours − paper</th>'] if has_difference else []
    upper.append('<th class="number" rowspan="2">Test images</th><th class="number" rowspan="2">Seeds</th>')
    rows = "".join(_result_row(row, published, table.lead, several_arms) for row in table.rows)
    head = f"<tr>{''.join(upper)}</tr><tr>{''.join(lower)}</tr>"
    return _table(head if lower else f"<tr>{''.join(upper)}</tr>".replace(' rowspan="2"', ""), rows)


def _result_row(row: Row, published: dict[str, bool], lead: str, several_arms: bool) -> str:
    arm = f'<span class="small">{escape(arm_name(row.arm))}</span>' if several_arms else ""
    score = next((c.ours for c in row.cells if c.ours is not None), None)
    missing = "not run" if row.arm_runs is None else "not recorded by our runs"
    state = "" if score is not None else f'<span class="small">{missing}</span>'
    marks = f'<span class="tag line">{escape(tags(row.marks))}</span>' if row.marks else ""
    of = f" · {escape(row.class_name)}" if row.class_name is not None else ""
    cells = [f'<td class="name">{escape(row.model_name)}{of}{arm}{state}{marks}</td>']
    for cell in row.cells:
        title = metric_title(cell.column)
        if published[cell.column]:
            paper = f'<span class="paper">{escape(printed(cell))}</span>'
            cells.append(_labelled(f"{title}, paper†", paper, True))
        extra = " lead-score" if cell.column == lead else ""
        ours = f"{title}, ours" if published[cell.column] else title
        cells.append(_labelled(ours, _ours(cell), True, extra + (" empty" if cell.ours is None else "")))
        if published[cell.column] and cell.column == lead:
            shown = "—" if cell.difference is None else percent_points(cell.metric, cell.difference)
            cells.append(
                _labelled("ours − paper", shown, True, "" if cell.difference is not None else "empty")
            )
    if score is None:
        cells += [_labelled("Test images", "—", True, "empty"), _labelled("Seeds", "—", True, "empty")]
    else:
        cells.append(_labelled("Test images", _stack(*tested_on(row)), True))
        cells.append(_labelled("Seeds", _stack(str(score.n_seeds), seed_spread(row, lead)), True))
    css = "" if score is not None else ' class="absent"'
    return f"<tr{css}>{''.join(cells)}</tr>"


def _ours(cell: Cell) -> str:
    if cell.ours is None:
        return "—"
    small = interval(cell.metric, cell.ours).strip("[]").replace(", ", "–")
    value = show(cell.metric, cell.ours.value)
    return _stack(value, small)


def _stack(value: str, small: str) -> str:
    """Return a value with a small line below it, if there is one."""
    below = f'<span class="small">{escape(small)}</span>' if small else ""
    return f"<span>{escape(value)}{below}</span>"


def _labelled(label: str, content: str, number: bool, extra: str = "") -> str:
    """Return a cell that knows its heading, for narrow screens where rows become cards."""
    css = " ".join((("number " if number else "") + extra).split())
    return (
        f'<td data-label="{escape(label)}"{f" class={chr(34)}{css}{chr(34)}" if css else ""}>{content}</td>'
    )


def _prose(text: str) -> str:
    """Escape, and keep a number and its per cent sign on one line."""
    return escape(text).replace(" %", "\u00a0%")


def _right(i: int, numbers: Sequence[int]) -> str:
    return ' class="number"' if i in numbers else ""


def _table(head: str, rows: str) -> str:
    return (
        f'<div class="scroll"><table class="cards"><thead>{head}</thead><tbody>{rows}</tbody></table></div>\n'
    )
