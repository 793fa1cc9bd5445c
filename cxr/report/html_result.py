"""A result table as HTML: per score the published value in a column of its own, ours with its interval."""

from __future__ import annotations

from html import escape

from cxr.report import html
from cxr.report.export import interval, seed_spread, tested_on
from cxr.report.mark import tags
from cxr.report.spec import arm_name
from cxr.report.table import Cell, Row, Table, metric_title, percent_points, printed, show

__all__ = ["result_table"]


def result_table(table: Table) -> str:
    """Return a result table; two rows of headings where some score has published values."""
    published = {c.column: False for row in table.rows for c in row.cells}
    for cell in (c for row in table.rows for c in row.cells):
        published[cell.column] |= cell.published is not None
    rows = 2 if any(published.values()) else 1
    upper, lower, column = [html.top("Model", 0, rows=rows)], [], 1
    for metric in table.metrics:
        if not published[metric]:
            upper.append(html.top(metric_title(metric), column, number=True, rows=rows))
            column += 1
            continue
        parts = ["paper†", "ours", *(["ours − paper"] if metric == table.lead else [])]
        upper.append(
            f'<th class="group" scope="colgroup" colspan="{len(parts)}">{escape(metric_title(metric))}</th>'
        )
        lower += [html.top(part, column + i, number=True) for i, part in enumerate(parts)]
        column += len(parts)
    upper += [html.top(t, column + i, number=True, rows=rows) for i, t in enumerate(("Test images", "Seeds"))]
    several_arms = len({row.arm for row in table.rows}) > 1
    body = "".join(_row(row, published, table.lead, several_arms) for row in table.rows)
    head = f"<tr>{''.join(upper)}</tr>" + (f"<tr>{''.join(lower)}</tr>" if lower else "")
    return html.table(head, body)


def _row(row: Row, published: dict[str, bool], lead: str, several_arms: bool) -> str:
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
            value = None if cell.published is None else cell.published.value
            cells.append(html.cell(f"{title}, paper†", paper, number=True, value=value))
        css = ("lead-score " if cell.column == lead else "") + ("empty" if cell.ours is None else "")
        ours = f"{title}, ours" if published[cell.column] else title
        value = None if cell.ours is None else cell.ours.value
        cells.append(html.cell(ours, _ours(cell), number=True, css=css, value=value))
        if published[cell.column] and cell.column == lead:
            shown = "—" if cell.difference is None else percent_points(cell.metric, cell.difference)
            css = "" if cell.difference is not None else "empty"
            cells.append(html.cell("ours − paper", shown, number=True, css=css, value=cell.difference))
    if score is None:
        cells += [html.cell(t, "—", number=True, css="empty") for t in ("Test images", "Seeds")]
    else:
        n, of_what = tested_on(row)
        cells.append(html.cell("Test images", html.stack(n, of_what), number=True, value=html.number_in(n)))
        seeds = html.stack(str(score.n_seeds), seed_spread(row, lead))
        cells.append(html.cell("Seeds", seeds, number=True, value=score.n_seeds))
    css = "" if score is not None else ' class="absent"'
    return f"<tr{css}>{''.join(cells)}</tr>"


def _ours(cell: Cell) -> str:
    if cell.ours is None:
        return "—"
    small = interval(cell.metric, cell.ours).strip("[]").replace(", ", "–")
    return html.stack(show(cell.metric, cell.ours.value), small)
