"""Our changes to llama.cpp's source fit the pinned source, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from vendor import fetch, native, patch

DIFF = """What it is for.

--- a/src/one.txt
+++ b/src/one.txt
@@ -1,3 +1,3 @@
 a
-b
+B
 c
@@ -5,2 +5,3 @@ somewhere
 e
+--- no header, but a line
 f
--- a/src/two.txt
+++ b/src/two.txt
@@ -1 +0,0 @@
-gone
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "src").mkdir()
    (tmp_path / "src/one.txt").write_text("a\nb\nc\nd\ne\nf\n")
    (tmp_path / "src/two.txt").write_text("gone\nstays\n")
    (tmp_path / "x.patch").write_text(DIFF)
    return tmp_path


def test_apply(tree: Path) -> None:
    patch.apply(tree / "x.patch", tree)
    assert (tree / "src/one.txt").read_text() == "a\nB\nc\nd\ne\n--- no header, but a line\nf\n"
    assert (tree / "src/two.txt").read_text() == "stays\n"


@pytest.mark.parametrize("text", ["", "kept\n", "gone\ngone\n"])
def test_what_does_not_fit_changes_nothing(tree: Path, text: str) -> None:
    (tree / "src/two.txt").write_text(text)
    with pytest.raises(
        patch.PatchError, match=r"^x\.patch does not fit src/two\.txt of this llama\.cpp \(near 'gone'\)$"
    ):
        patch.apply(tree / "x.patch", tree)
    assert (tree / "src/one.txt").read_text() == "a\nb\nc\nd\ne\nf\n"


def test_every_patch_fits_the_pinned_source(tmp_path: Path) -> None:
    patch.copy(fetch.source_dir(), native.SOURCE_PARTS, tmp_path)
    assert patch.patches()
    for each in patch.patches():
        assert each.read_text().split("---")[0].strip(), f"{each.name} does not say what it is for"
        changed = {tmp_path / hunk.file for hunk in patch.hunks(each)}
        before = {path: path.read_text() for path in changed}
        patch.apply(each, tmp_path)
        assert all(path.read_text() != text for path, text in before.items())
        with pytest.raises(patch.PatchError):
            patch.apply(each, tmp_path)


def test_a_source_of_the_users_own(
    tree: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(patch, "FOLDER", tree)
    monkeypatch.setattr(native, "SOURCE_PARTS", ("src",))
    (tree / "src/two.txt").write_text("another version\n")
    monkeypatch.setenv("LLAMA_CPP_SOURCE", str(tree))
    native._patched(tree, tree / "work")
    assert capsys.readouterr().err.startswith("note: x.patch does not fit src/two.txt")
    monkeypatch.delenv("LLAMA_CPP_SOURCE")
    with pytest.raises(native.BuildError, match="make it fit the new pin"):
        native._patched(tree, tree / "work")
