"""The files around the source: they can be read, and the commands and files that they name exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
CONFIGURATION = [*sorted((ROOT / ".github").rglob("*.yml")), ROOT / ".pre-commit-config.yaml"]
GUIDES = [
    *(ROOT / name for name in ("CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", "tests/README.md")),
    *sorted((ROOT / ".github").rglob("*.md")),
    *CONFIGURATION,
]


def targets() -> set[str]:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    return set(re.findall(r"^([a-z][a-z-]*):", text, re.MULTILINE))


@pytest.mark.parametrize("path", CONFIGURATION, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_configuration_is_yaml_of_the_right_kind(path: Path) -> None:
    data = yaml.safe_load(path.read_text(encoding="utf-8"))
    folder = path.parent.name
    if folder == "workflows":
        assert {"name", "jobs"} <= data.keys() and (True in data or "on" in data)  # YAML 1.1 reads `on` as a boolean
        assert all("runs-on" in job and job["steps"] for job in data["jobs"].values())
    elif folder == "ISSUE_TEMPLATE":
        assert {"name", "description", "body"} <= data.keys()
        assert all("label" in part["attributes"] for part in data["body"] if part["type"] != "markdown")
    elif path.name == "dependabot.yml":
        assert data["version"] == 2 and data["updates"]
    else:
        assert [hook["id"] for repository in data["repos"] for hook in repository["hooks"]]


@pytest.mark.parametrize("path", GUIDES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_targets_of_make_that_a_guide_names_exist(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    named = re.findall(r"(?:^|`|run: |\n)make ([a-z][a-z-]*(?: [a-z][a-z-]*)*)", text)
    assert {word for words in named for word in words.split()} <= targets()


def test_the_help_lists_every_target() -> None:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    listed = set(re.findall(r'@echo "make ([a-z-]+) ', text))
    assert listed == targets() - {"help", "quick-style", "quick-tests"}  # `make quick` runs these two at once


@pytest.mark.parametrize("path", GUIDES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_to_files(path: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8"))
    assert [link for link in links if not (path.parent / link).exists()] == []


def test_the_changelog_has_the_version() -> None:
    from llama_cffi import __version__

    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    versions = re.findall(r"^## \[([^\]]+)\]", text, re.MULTILINE)
    assert versions[0] == "Unreleased" and versions[1] == __version__
