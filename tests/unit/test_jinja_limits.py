"""Chat templates that would take all time or memory are stopped, and everything that they do wrong is a ValueError."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from llama_cffi.chat import jinja

_SET = "{% set ns = namespace(x=[1], t=(1,), u=(1,), s='x') %}{% for i in range(100) %}{% set ns."

STOPPED = (
    "{{ 'x' * 10**9 }}",
    "{{ 10**9 * 'x' }}",
    "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}",
    "{% macro f(n) %}{% if n %}{{ f(n-1) }}{{ f(n-1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    _SET + "s = ns.s + ns.s %}{% endfor %}",
    _SET + "s = ns.s ~ ns.s %}{% endfor %}",
    _SET + "x = [ns.x, ns.x] %}{% endfor %}",
    _SET + "x = ns.x + ns.x %}{% endfor %}",
    _SET + "x = dict(a=ns.x, b=ns.x) %}{% endfor %}",
    _SET + "x = {'a': ns.x, 'b': ns.x} %}{% endfor %}",
    _SET + "x = namespace(a=ns.x, b=ns.x) %}{% endfor %}",
    "{% set ns = namespace() %}{% set ns.a = ns %}{{ ns }}",
    "{{ 'x' | center(10**9) }}",
    "{{ 'x'.center(10**9) }}",
    "{{ 'x'.zfill(10**9) }}",
    "{{ '%1000000000d' % 1 }}",
    "{{ '%.*f' % (10**9, 1) }}",
    "{{ '%1000000000d' | format(1) }}",
    "{{ '{:1000000000}'.format(1) }}",
    "{{ '{:{}}'.format(1, 10**9) }}",
    "{{ '{a:1000000000}'.format_map({'a': 1}) }}",
    "{{ 9 ** (9 ** 9) }}",
    "{{ 10**4000 * 10**4000 }}",
    "{{ 1 | round(10**8, 'ceil') }}",
    "{{ (1).to_bytes(10**9, 'big') }}",
    "{{ [1] | batch(10**9, 'x') | list }}",
    "{{ [1] | slice(10**9) | list }}",
    "{{ {'a': [1]} | tojson(indent=10**9) }}",
    "{{ ('\\t' * 100000).expandtabs(10**6) }}",
    "{{ ('a' * 100000).replace('a', 'b' * 100000) }}",
    "{{ ('a' * 100000) | replace('a', 'b' * 100000) }}",
    "{{ ('x' * 100000).join(range(100000) | map('string') | list) }}",
    "{{ range(100000) | join('x' * 100000) }}",
    "{{ ('\\n' * 100000) | indent(10**5) }}",
    "{{ ([(range(100000) | list)] * 100) | sum(start=[]) }}",
    "{{ 'x'.translate({120: 'y' * 10**7}) }}",
    "{{ ('a ' * 10000000).split() | length }}",
    "{{ ('x' * 30000000) | list | length }}",
    "{{ ('x' * 30000000) | sort | length }}",
    "{{ ('www.a ' * 100000) | urlize }}",
    "{% set b = 'x' * 1000000 %}{% for i in range(100000) %}{{ b }}{% endfor %}",
    "{% set b = 'x' * 1000000 %}{% set c %}{% for i in range(100000) %}{{ b }}{% endfor %}{% endset %}",
    "{% set b = 'x' * 1000000 %}{% macro m() %}{% for i in range(100000) %}{{ b }}{% endfor %}{% endmacro %}{{ m() }}",
    "{% set b = 'x' * 30000000 %}{% for i in range(100000) %}{% set c = b.upper() %}{% endfor %}",
)
FAILING = (
    "{{ lipsum(n=10**7) }}",
    "{% for i in range(10**9) %}x{% endfor %}",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "{% for i in range(9) recursive %}{{ loop(range(9)) }}{% endfor %}",
    "{% include 'x' %}",
    "{{ 1 / 0 }}",
)
UNPARSED = (
    "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "{{ " + "[" * 3000 + "]" * 3000 + " }}",
    "{{ " + "not " * 3000 + "1 }}",
    "{{ 1" + "+1" * 3000 + " }}",
    "{% for a in b %}" * 30 + "{% endfor %}" * 30,
    "{% if a %}" * 500 + "{% endif %}" * 500,
    "{% break %}",
    "{{ f(a=1, a=2) }}",
    "{{ " + "9" * 6000 + " }}",
    "{% macro f(a, a) %}{% endmacro %}",
    "{{ '\\N{nothing}' }}",
    "{% for m in messages %}",
    "x" * 300000,
)


def outcome(source: str) -> str:
    jinja.check(source)
    return jinja.render(source, {"messages": [{"role": "user", "content": "hi"}]})


@pytest.mark.parametrize("source", STOPPED)
def test_a_template_that_takes_too_much(source: str) -> None:
    before = time.thread_time()
    with pytest.raises(ValueError, match=r"the chat template was stopped: .*([0-9]|translate)"):
        outcome(source)
    assert time.thread_time() - before < 20


def test_memory_is_limited() -> None:
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))\n"
        "from tests.unit.test_jinja_limits import STOPPED, outcome\n"
        "for source in STOPPED:\n    try: outcome(source)\n"
        "    except ValueError as error: assert 'stopped' in str(error), (source, error)\n"
        "    else: raise SystemExit(source)\n"
        "most = next(line for line in open('/proc/self/status') if line.startswith('VmHWM'))\n"  # of this program alone
        "assert int(most.split()[1]) < 800_000, most"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=500, check=False)
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize("source", FAILING)
def test_a_template_that_fails(source: str) -> None:
    with pytest.raises(ValueError, match="the chat template"):
        outcome(source)


@pytest.mark.parametrize("source", UNPARSED, ids=lambda source: str(source)[:20])
def test_a_template_that_cannot_be_compiled(source: str) -> None:
    with pytest.raises(ValueError, match="the chat template (cannot be|may have 262144)"):
        outcome(source)


def test_time_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    from llama_cffi.chat import jinja_budget

    monkeypatch.setattr(jinja_budget, "MAX_SECONDS", 0.2)
    for body in ("b[1:]", "'y' in b", "b == c"):
        source = f"{{% set b = 'x' * 9000000 %}}{{% for i in range(100000) %}}{{% set c = {body} %}}{{% endfor %}}"
        before = time.thread_time()
        with pytest.raises(ValueError, match="more than 0.2 s|characters"):
            outcome(source)
        assert time.thread_time() - before < 10


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{{ 1 < 2 < 3 }}{{ 'a' in messages[0].role }}{{ messages[0] == messages[0] }}", "TrueFalseTrue"),
        ("{% set x = messages | length %}{{ x > 0 and x != 2 }}{{ x not in [x] }}", "TrueFalse"),
        ("{{ 'a' ~ 1 ~ none ~ [1, 'b'] }}", "a1None[1, 'b']"),
        ("{{ '%5.1f|%-4s|' % (1.25, 'x') }}{{ '{:>4}{a}'.format(1, a=2) }}", "  1.2|x   |   12"),
        ("{{ [1, 2] + [3] }}{{ (1, 2)[::-1] }}{{ 'ab' * 2 }}{{ 2 ** 10 % 1000 }}", "[1, 2, 3](2, 1)abab24"),
        ("{{ [3, 1, 2] | sort | join(',') }}{{ [1, 2, 3] | sum }}{{ 'x' | center(3) }}", "1,2,36 x "),
        ("{{ messages | map(attribute='role') | unique | list }}{{ 5 | string }}", "['user']5"),
        ("{{ messages | selectattr('role', 'equalto', 'user') | list | length }}", "1"),
        ("{% for m in messages if m.role == 'user' %}{{ loop.index }}{{ loop.last }}{% else %}no{% endfor %}", "1True"),
        ("{% for k, v in messages[0].items() %}{{ k }}={{ v }};{% endfor %}", "role=user;content=hi;"),
        ("{% for x in [[1, [2]], [3]] recursive %}{{ loop(x) if x is iterable else x }}{% endfor %}", "123"),
        ("{% macro m(a, b=2) %}{{ a + b }}{{ caller() if caller }}{% endmacro %}{% call m(1) %}c{% endcall %}", "3c"),
        ("{{ 'a-b'.split('-') }}{{ ' x '.strip() }}{{ '-'.join(['a', 'b']) }}{{ 'ab'.replace('a', 'c') }}",
         "['a', 'b']xa-bcb"),
        ("{% set a, b = 1, 2 %}{{ a }}{{ b }}{{ {'k': [a]} }}{{ 3 if a is none else 4 }}", "12{'k': [1]}4"),
    ],
)  # fmt: skip
def test_what_templates_do(source: str, text: str) -> None:
    assert outcome(source) == text


def test_a_long_conversation() -> None:
    chat = [{"role": "user", "content": "word " * 2000}] * 1000
    source = (
        "{% set ns = namespace(s='') %}{% for m in messages %}{% set ns.s = ns.s + m.content %}{% endfor %}{{ ns.s }}"
    )
    assert len(jinja.render(source, {"messages": chat[:200]})) == 2_000_000
    assert (
        len(jinja.render("{% for m in messages %}{{ m.content | trim }}{% endfor %}", {"messages": chat})) == 9_999_000
    )
