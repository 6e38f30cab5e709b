"""Figures as SVG within a page, in the colours of its theme."""

from __future__ import annotations

from html import escape

_STYLE = (
    ".box{fill:var(--color-background-secondary);stroke:var(--color-foreground-border)}"
    ".line{stroke:var(--color-foreground-muted);fill:none;stroke-width:1.3}"
    ".head{fill:var(--color-foreground-muted)}"
    "text{fill:var(--color-foreground-primary);font-family:var(--font-stack);font-size:13px}"
    "text.mono{font-family:var(--font-stack--monospace);font-size:12px}"
    "text.quiet{fill:var(--color-foreground-secondary);font-size:12px}"
    "text.room{fill:var(--color-brand-primary);font-size:12px;font-weight:600}"
)
_HEAD = (
    '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" '
    'orient="auto"><path class="head" d="M0 0L8 4L0 8z"/></marker></defs>'
)


def box(x: int, y: int, width: int, height: int) -> str:
    """Return a rectangle."""
    return f'<rect class="box" x="{x}" y="{y}" width="{width}" height="{height}" rx="4"/>'


def text(x: int, y: int, words: str, kind: str = "", anchor: str = "start") -> str:
    """Return a line of text; `kind` is mono, quiet or room."""
    return f'<text class="{kind}" x="{x}" y="{y}" text-anchor="{anchor}">{escape(words)}</text>'


def arrow(x: int, y: int, to_x: int, to_y: int) -> str:
    """Return a straight line with a head at its end."""
    return f'<path class="line" marker-end="url(#head)" d="M{x} {y}L{to_x} {to_y}"/>'


def figure(width: int, height: int, title: str, parts: list[str]) -> str:
    """Return the figure as a block of HTML; it scrolls where the page is narrow."""
    return (
        f'<div class="way"><svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" '
        f'xmlns="http://www.w3.org/2000/svg"><title>{escape(title)}</title><style>{_STYLE}</style>{_HEAD}'
        f"{''.join(parts)}</svg></div>"
    )
