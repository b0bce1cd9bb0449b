"""The interpreter that reads llama.cpp's tests."""

from __future__ import annotations

import pytest

from tests.chat.cpp import Interpreter, Record, Unsupported, tokenize


def _point(values: list[object]) -> Record:
    return Record(zip(("x", "y"), [*values, 0, 0], strict=False))


def _run(body: str, top: str = "") -> tuple[dict[str, object], list[str]]:
    found = Interpreter(
        tokenize(f"{top}\nstatic void test() {{ {body} }}"), {"point": _point}, {"twice": lambda n: 2 * n}
    )
    return dict(found.call("test")), [one.reason for one in found.skipped]


@pytest.mark.parametrize(
    ("literal", "text"),
    [
        (r'"a\tb\\n\"c\""', 'a\tb\\n"c"'),
        ('"one " \n /* and */ "two" // three\n', "one two"),
        (r'"\xc3\xa9\u00df\0"', "\xe9\xdf\0"),
        ('R"(raw "text" \\n)"', 'raw "text" \\n'),
        ('R"x(with )" in it)x"', 'with )" in it'),
        ('u8"h\xf6flich" R"(!)"', "h\xf6flich!"),
    ],
)
def test_literals(literal: str, text: str) -> None:
    kinds = [(token.kind, token.value) for token in tokenize(literal)]
    assert kinds == [("text", text), ("end", "")]


def test_lines_are_counted_through_comments_and_raw_texts() -> None:
    tokens = tokenize('#define X \\\n 1\n/* a\n b */ one\nR"(\n\n)" two')
    assert [(token.value, token.line) for token in tokens if token.kind == "name"] == [("one", 4), ("two", 7)]


@pytest.mark.parametrize(
    ("body", "name", "value"),
    [
        ("int a = twice(4);", "a", 8),
        ('std::string a = "x"; a = a + "y";', "a", "xy"),
        ("point a{1, 2}; a.y = 5;", "a", {"x": 1, "y": 5}),
        ("auto a = point{1}; auto b = a; b.x = 7;", "a", {"x": 1, "y": 0}),
        ("std::vector<int> a{1, 2}; a.push_back(3);", "a", [1, 2, 3]),
        ("int a = 0; for (auto x : {1, 2, 3}) { a = a + x; }", "a", 6),
        ("int a = 0; for (const auto & [x, y] : {{1, 2}, {3, 4}}) a = a + x - y;", "a", -2),
        ("int a = 1; if (a == 2 || !(a < 3)) { a = 5; } else if (a > 0 && true) { a = 6; }", "a", 6),
        ("auto f = [&]() { point made; made.x = 3; return made; }; auto a = f();", "a", {"x": 3, "y": 0}),
        ("int a = 3; { int a = 4; } ", "a", 3),
        ('auto a = std::string("x").empty() ? 1 : 2;', "a", 2),
        ("int a = add(1);", "a", 11),
    ],
)
def test_statements(body: str, name: str, value: object) -> None:
    scope, skipped = _run(body, "static int add(int one, int two = 10) { return one + two; }")
    assert scope[name] == value
    assert skipped == []


def test_what_is_unknown_is_skipped_alone() -> None:
    scope, skipped = _run("int a = 1; while (a < 3) { a++; } nothing(a); { int b = gone; a = 2; } int c = 5;")
    assert (scope["a"], scope["c"]) == (2, 5)
    assert len(skipped) == 3 and "nothing" in skipped[1] and "gone" in skipped[2]


def test_a_helper_that_cannot_be_run_skips_its_caller() -> None:
    scope, skipped = _run("int a = helper(); int b = 2;", "static int helper() { return unknown_thing(1); }")
    assert "a" not in scope and scope["b"] == 2
    assert "unknown_thing" in skipped[0]


def test_errors_name_what_is_unknown() -> None:
    with pytest.raises(Unsupported, match="the name missing"):
        Interpreter(tokenize("int x;"), {}, {}).call("missing")
