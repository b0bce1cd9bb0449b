"""README.md on a package index: its links are absolute where the address of the repository is known, and never dead."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from email import message_from_string
from pathlib import Path

import pytest

from vendor.build import readme

ROOT = Path(__file__).resolve().parents[2]
ADDRESS = "https://code.example/owner/llama_cffi"
TEXT = """\
See [docs/safety.md](docs/safety.md), [a part](docs/building.md#extras), [`code`](llama_cffi/__init__.py), [here](#top),
[upstream](https://example.org/x) and [examples](examples/users). ![A picture](docs/plots/contest.svg)

```python
text = table[0](docs)  # [not](docs/a.md) a link
```
"""


def test_links_become_absolute() -> None:
    found = readme.for_index(TEXT, {"Repository": ADDRESS + "/"}, "1.2")
    for link in (
        f"[docs/safety.md]({ADDRESS}/blob/v1.2/docs/safety.md)",
        f"[a part]({ADDRESS}/blob/v1.2/docs/building.md#extras)",
        f"[`code`]({ADDRESS}/blob/v1.2/llama_cffi/__init__.py)",
        f"[examples]({ADDRESS}/tree/v1.2/examples/users)",
        f"![A picture]({ADDRESS}/raw/v1.2/docs/plots/contest.svg)",
        "[here](#top)",
        "[upstream](https://example.org/x)",
        "text = table[0](docs)  # [not](docs/a.md) a link",
    ):
        assert link in found


def test_without_an_address_no_link_is_dead() -> None:
    found = readme.for_index(TEXT, {}, "1.2")
    assert found.startswith("See docs/safety.md, a part, `code`, [here](#top),\n[upstream](https://example.org/x) and ")
    assert "picture" not in found and "table[0](docs)  # [not](docs/a.md)" in found


@pytest.mark.parametrize("address", ["", ADDRESS])
def test_the_metadata_has_the_rewritten_readme(address: str, tmp_path: Path) -> None:
    """As setuptools writes it, for wheels and source distributions, from the one place for the address."""
    for name in ("setup.py", "build_ffi.py", "README.md", "LICENSE", "vendor", "codegen", "llama_cffi"):
        (tmp_path / name).symlink_to(ROOT / name)
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    urls = "[project.urls]\n" + (f'Repository = "{address}"\n' if address else "")
    project, n = re.subn(r"^\[project\.urls\]\n(?:.+\n)*", urls, project, flags=re.MULTILINE)
    assert n == 1
    (tmp_path / "pyproject.toml").write_text(project, encoding="utf-8")
    command = [sys.executable, "setup.py", "--quiet", "egg_info", "--egg-base", str(tmp_path)]
    env = {**os.environ, "PYTHONPATH": ""}
    result = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    metadata = message_from_string((tmp_path / "llama_cffi.egg-info" / "PKG-INFO").read_text(encoding="utf-8"))
    body = metadata.get_payload()
    assert isinstance(body, str)
    targets = re.findall(r"\]\(([^()\s]+)\)", re.sub(r"^```.*?^```$", "", body, flags=re.MULTILINE | re.DOTALL))
    assert [target for target in targets if not target.startswith(("https://", "http://", "#"))] == []
    if address:
        assert metadata["Project-URL"] == f"Repository, {ADDRESS}"
        assert f"]({ADDRESS}/blob/v{metadata['Version']}/docs/safety.md)" in body
    else:
        assert "Project-URL" not in metadata and "docs/safety.md" in (ROOT / "README.md").read_text(encoding="utf-8")
