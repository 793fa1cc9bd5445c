"""The report as one Markdown file: its words and tables without figures, and nothing of the machine it ran on."""

from __future__ import annotations

from collections.abc import Sequence

from cxr.report.export import markdown_text, to_markdown

__all__ = ["bullets", "document"]


def document(
    title: str,
    byline: str,
    lead: Sequence[str],
    facts: Sequence[tuple[str, str]],
    care: Sequence[str],
    sections: Sequence[tuple[str, Sequence[str]]],
    runs: tuple[Sequence[str], Sequence[Sequence[str]]],
) -> str:
    """Return the document; the bodies of `sections` (title, body) are Markdown, everything else is text."""
    parts = [f"# {markdown_text(title)}", markdown_text(byline), *map(markdown_text, lead)]
    parts.append(" · ".join(f"{markdown_text(name)}: {markdown_text(value)}" for name, value in facts))
    if care:
        parts += ["## Read these rows with care", bullets(care)]
    for name, body in sections:
        parts += [f"## {markdown_text(name)}", *body]
    return (
        "\n\n".join(part.strip() for part in [*parts, "## Provenance", to_markdown("Runs", *runs, [])]) + "\n"
    )


def bullets(items: Sequence[str]) -> str:
    """Return a list."""
    return "\n".join(f"- {markdown_text(item)}" for item in items)
