"""Small HTML tables for notebooks: what `_repr_html_` of public classes returns."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping


def table(title: str, rows: Mapping[str, object] | None = None) -> str:
    """Return a title and a table of names and values, escaped."""
    from html import escape  # notebooks have imported it already

    cells = "".join(
        f'<tr><th style="text-align:left">{escape(name)}</th><td style="text-align:left">{escape(str(value))}</td></tr>'
        for name, value in (rows or {}).items()
    )
    return f"<b>{escape(title)}</b>" + (f"<table>{cells}</table>" if cells else "")
