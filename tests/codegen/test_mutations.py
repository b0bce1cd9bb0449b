"""Headers as upstream might edit them: each is absorbed, its function unavailable, or refused with the right message.

The compiler's word on a few; `make mutations` asks it about all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor

import pytest

from codegen.api.paths import ROOT
from tests.mutations.__main__ import main, try_one
from tests.mutations.generation import edited
from tests.mutations.model import Mutation, absorbed
from tests.mutations.table import MUTATIONS, ROWS

pytestmark = [pytest.mark.native, pytest.mark.slow]  # reads llama.cpp's headers; minutes in all

# One of each way that generated C comes about.
COMPILED = (
    "field-mid-struct",
    "plain-field-dropped",
    "function-dropped",
    "cvec-by-its-old-name",
)


@pytest.fixture(scope="module")
def outcomes(request: pytest.FixtureRequest) -> Iterator[dict[str, Future[tuple[str, str]]]]:
    """What came of each mutation that is to be tested, worked out by two processes meanwhile."""
    calls = [item.callspec for item in request.session.items if hasattr(item, "callspec")]
    wanted = dict.fromkeys(call.params["mutation"] for call in calls if "mutation" in call.params)
    with ProcessPoolExecutor(2) as pool:
        yield {name: pool.submit(try_one, name, name in COMPILED) for name in wanted}


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_mutation(mutation: str, outcomes: dict[str, Future[tuple[str, str]]]) -> None:
    word, problem = outcomes[mutation].result()
    assert problem == ""
    assert word == MUTATIONS[mutation].expected.word


def test_every_kind_of_outcome_is_in_the_table() -> None:
    counts = Counter(row.expected.word for row in ROWS)
    assert min(counts["absorbed"], counts["refused"]) > 40
    assert counts["unavailable"] >= 5


def test_the_guide_counts_them() -> None:
    counts = Counter(row.expected.word for row in ROWS)
    guide = " ".join((ROOT / "codegen" / "README.md").read_text(encoding="utf-8").split())
    assert (
        f"{len(ROWS)} edits, of which {counts['absorbed']} are absorbed, {counts['unavailable']} make a function "
        f"unavailable and {counts['refused']} are refused"
    ) in guide


def test_no_two_mutations_have_one_name() -> None:
    assert len(MUTATIONS) == len(ROWS)


def test_an_edit_whose_text_is_not_there_is_an_error() -> None:
    mutation = Mutation("x", "x", "llama.h", (("no such text\n", ""),), absorbed())
    with pytest.raises(AssertionError, match="llama.h has 0 times 'no such text"), edited(mutation):
        pass


def test_the_table_is_printed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["mutations", "--table"])
    assert main() == 0
    assert len(capsys.readouterr().out.splitlines()) == len(ROWS)
