"""Sphinx configuration. `_ext` writes the reference, from the package's docstrings and the generated naming map."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "docs" / "_ext")]

import llama_cffi  # noqa: E402
from llama_cffi._generated.pin import PIN  # noqa: E402

project = "llama_cffi"
release = version = llama_cffi.__version__
extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.viewcode",
    "myst_parser",
    "sphinx_copybutton",
    "sphinx_design",
    "names",
    "cards",
    "reference",
    "sources",
    "searching",
]
myst_heading_anchors = 2
exclude_patterns = ["_build", "_ext"]
templates_path = ["_templates"]
rst_epilog = f".. |llama_cpp| replace:: {PIN}"
html_theme = "furo"
html_title = "llama_cffi"
html_context = {"llama_cpp": PIN}
html_theme_options = {"navigation_with_keys": True}
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_show_copyright = False
html_copy_source = False
html_js_files = ["site.js"]
copybutton_prompt_text = r"\$ |>>> "
copybutton_prompt_is_regexp = True
html_split_index = True
html_search_scorer = str(ROOT / "docs" / "_static" / "search_scorer.js")
default_role = "code-or-reference"
add_module_names = False
autodoc_typehints = "signature"
maximum_signature_line_length = 70
python_use_unqualified_type_names = True
toc_object_entries_show_parents = "hide"
nitpicky = True
# A type in a signature has a short name, such as `Context`, which more than one class has. Its link leads to the first.
suppress_warnings = ["ref.python"]
# Names without a page: C types in prototypes, and types of other packages in signatures.
nitpick_ignore_regex = [("c:identifier", ".*"), ("py:class", ".*"), ("py:data", ".*")]
