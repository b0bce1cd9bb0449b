"""Which comment belongs to which declaration."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from codegen.api.model import Api

TEXT = r"""
// Says hello
//   to everyone.
int hello(int n); // at once

/* A block
 * of two lines */
int block(void);

/// Three slashes.
int slashes(
    int first,  // the first one
    int second, // the second one
    int third);

int bare(void);
int neighbour(void); // mine alone

// Not of the next function: a blank line parts them.

int parted(void);

#define FIRST  1 // one
#define SECOND 2
#define URL    "http://example.org/x" // where
#define SLASHES "//no comment"
#define LONG   (1 + \
                2) // three
int after_macros(void);

// A pair.
typedef struct pair {
    int left;   // goes on
                // below
    int right;
    int quoted; // says "yes"
    int last;
} pair_t; // of numbers

typedef struct {
    int x;
} unnamed;

// A choice.
enum choice {
    CHOICE_A, // the first
    // before the second
    CHOICE_B,
    CHOICE_C = 'x', CHOICE_D, // several
};
"""


@pytest.fixture
def docs(read: Callable[..., Api]) -> dict[str, str]:
    """Every name of TEXT with the comment that the generator found for it."""
    api = read(TEXT)
    found = {f.name: f.doc for f in api.functions} | {c.name: c.doc for c in api.constants}
    found |= {r.spelling: r.doc for r in api.records} | {t.name: t.doc for t in api.typedefs}
    found |= {f"{r.spelling}.{f.name}": f.doc for r in api.records for f in r.fields or ()}
    found |= {e.spelling: e.doc for e in api.enums} | {m.name: m.doc for e in api.enums for m in e.members}
    return found


def test_functions(docs: dict[str, str]) -> None:
    assert {name: docs[name] for name in ("hello", "block", "slashes", "bare", "neighbour", "parted")} == {
        "hello": "Says hello\n  to everyone.\nat once",
        "block": "A block\nof two lines",
        "slashes": "Three slashes.\nfirst: the first one\nsecond: the second one",
        "bare": "",
        "neighbour": "mine alone",
        "parted": "",
    }


def test_macros(docs: dict[str, str]) -> None:
    assert {name: docs[name] for name in ("FIRST", "SECOND", "URL", "SLASHES", "LONG", "after_macros")} == {
        "FIRST": "one",
        "SECOND": "",
        "URL": "where",
        "SLASHES": "",
        "LONG": "three",
        "after_macros": "",
    }


def test_structs(docs: dict[str, str]) -> None:
    assert {name: doc for name, doc in docs.items() if "pair" in name or "unnamed" in name} == {
        "struct pair": "A pair.",
        "struct pair.left": "goes on\nbelow",
        "struct pair.right": "",
        "struct pair.quoted": 'says "yes"',
        "struct pair.last": "",
        "pair_t": "",
        "unnamed": "",
        "unnamed.x": "",
    }


def test_enums(docs: dict[str, str]) -> None:
    assert {name: doc for name, doc in docs.items() if "choice" in name.lower()} == {
        "enum choice": "A choice.",
        "CHOICE_A": "the first",
        "CHOICE_B": "before the second",
        "CHOICE_C": "several",
        "CHOICE_D": "several",
    }
