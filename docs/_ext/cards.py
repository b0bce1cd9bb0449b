"""`.. cards:: How-to guides`: a card for each page of the toctree with that caption: its title, and a line about it.

The line is `description` in the page's front matter, or its first sentence.
"""

from __future__ import annotations

import re
from pathlib import Path

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from names import first_line


class Cards(SphinxDirective):
    required_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        source = Path(self.env.doc2path(self.env.docname)).read_text(encoding="utf-8")
        toctree = re.search(rf":caption: {self.arguments[0]}\n(?:   .*\n)*\n((?:   .+\n)+)", source)
        lines = [".. grid:: 1 2 2 3", "   :gutter: 2", ""]
        for name in toctree[1].split() if toctree else []:
            path = Path(self.env.doc2path(name))
            self.env.note_dependency(path)
            title, sentence = _beginning(path.read_text(encoding="utf-8"))
            lines += [f"   .. grid-item-card:: {title}", f"      :link: {name}", "      :link-type: doc", ""]
            lines += [f"      {sentence}", ""]
        parsed = nodes.container()
        self.state.nested_parse(StringList(lines, source=self.env.docname), self.content_offset, parsed)
        return parsed.children


def _beginning(page: str) -> tuple[str, str]:
    """Return the title of a page of Markdown, and its description, or else its first sentence."""
    described = re.search(r"^    description: (.*)$", page, re.MULTILINE) if page.startswith("---") else None
    title, _, rest = re.sub(r"\A---\n.*?^---\n\s*", "", page, flags=re.MULTILINE | re.DOTALL).partition("\n")
    text = re.sub(r"^```.*?^```$", "", rest, flags=re.MULTILINE | re.DOTALL)
    prose = next((part for part in re.split(r"\n\s*\n", text) if part.strip() and part.strip()[0] not in "|#<!-"), "")
    prose = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", prose).replace("**", "")
    sentence = described[1] if described else first_line(prose).rstrip(":")
    return title.removeprefix("# "), sentence.replace("`", "``")


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("cards", Cards)
    return {"parallel_read_safe": True}
