"""Grammars: the same masks as llama.cpp's own sampler, and limits where that one would not come back."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator

import numpy as np
import pytest

from llama_cffi import GrammarError, Model, Sampler, TokenDataArray, lib
from llama_cffi._core.ffi import ffi

JSON = r"""
root   ::= object
value  ::= object | array | string | number | ("true" | "false" | "null") ws
object ::= "{" ws ( string ":" ws value ("," ws string ":" ws value)* )? "}" ws
array  ::= "[" ws ( value ("," ws value)* )? "]" ws
string ::= "\"" ( [^"\\\x7F\x00-\x1F] | "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}) )* "\"" ws
number ::= ("-"? ([0-9] | [1-9] [0-9]{0,15})) ("." [0-9]+)? ([eE] [-+]? [0-9] [1-9]{0,15})? ws
ws ::= | " " | "\n" [ \t]{0,20}
"""

GRAMMARS = (
    JSON,
    'root ::= "yes" | "no"',
    "root ::= [a-z]+ [^a-z]* .",
    "root ::= ws ws ws [A-Z]\nws ::= [ \\n]*",
    'root ::= ("a" | "b"){2,5} "c"? ("de" | "d"){0,3} [é-ü]* "日本"?',
    "root ::= [^\\u0000-\\u00ff]{3} [あ-ん]+ | [😀-😎] .*",
    'root ::= expr\nexpr ::= term ([-+*/] term)*\nterm ::= [0-9]+ | "(" expr ")"\n',
    "root ::= [^\\n]{1,9} [\\n] | <[13]> [a-z]+ | !<[5]> [a]",
    'root ::= a b\r\na ::= (# comment\n "x" | [])\nb ::= "y"{0} "z"{3} | [z-a] | "" | [^]',
    "root ::= items*\nitems ::= inner\ninner ::= [a-c]?",
    pytest.param(
        'root ::= "\\x41\\u0042\\U00000043\\t\\"\\\\" [\\]\\-\\[^-] [-a]*',
        marks=pytest.mark.older("llama_version", "a hyphen cannot be escaped"),
    ),
    "root ::= [^é] [^日-本]{2} .{1,3}",
)


@pytest.fixture(scope="module", params=["spm", "bpe"])
def model(request: pytest.FixtureRequest, tiny: Model) -> Model:
    """Models with tokens for bytes, and with tokens that end inside a character."""
    return tiny if request.param == "spm" else request.getfixturevalue("gpt2")


@pytest.fixture(scope="session")
def gpt2(vectors: object, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    from pathlib import Path

    from tests import tiny_models

    assert isinstance(vectors, Path)
    path = tmp_path_factory.mktemp("grammar") / "gpt2.gguf"
    tiny_models.write_llama(path, vectors / "ggml-vocab-gpt-2.gguf")
    with Model.load(path) as loaded:
        yield loaded


def mask(sampler: object, n_vocab: int) -> np.ndarray:
    candidates = TokenDataArray(n_vocab)
    lib.llama_sampler_apply(sampler, candidates._c)
    return np.isfinite(np.asarray(candidates)["logit"])


@pytest.mark.older("llama_n_ctx_seq", "no tokens in grammars, and other rules for repetitions", some=True)
@pytest.mark.parametrize("grammar", GRAMMARS)
def test_masks_are_llama_cpps(model: Model, grammar: str) -> None:
    vocab, rng = model.vocab, random.Random(grammar)
    for _ in range(3):
        theirs = lib.llama_sampler_init_grammar(vocab._c, grammar.encode(), b"root")
        assert theirs != ffi.NULL
        with Sampler.initGrammar(vocab, grammar) as ours:
            for _ in range(12):
                expected, found = mask(theirs, vocab.nTokens), mask(ours._c, vocab.nTokens)
                wrong = np.flatnonzero(expected != found)
                if "<[" in grammar:  # llama.cpp lets no token pass for another's number that is a part of a character
                    wrong = [t for t in wrong if "\ufffd" not in vocab.tokenToPiece(int(t), special=True)]
                assert list(wrong) == []
                allowed = np.flatnonzero(expected)
                token = int(rng.choice(allowed)) if len(allowed) else vocab.eos
                if not len(allowed) or vocab.isEog(token):
                    break
                lib.llama_sampler_accept(theirs, token)
                ours.accept(token)
                if rng.random() < 0.2:
                    twin = ours.clone()
                    assert np.array_equal(mask(twin._c, vocab.nTokens), mask(theirs, vocab.nTokens))
                    twin.free()
        lib.llama_sampler_free(theirs)


@pytest.mark.parametrize(
    ("grammar", "words"),
    [
        ('root ::= "a"{3,1}', r"second number of \{3,1\}"),
        ('root ::= "a"{2001}', "2000"),
        ('root ::= "a"{99999999999999999999999999}', "2000"),
        ('root ::= ("a"{1,1000}){1,1000}', "2000"),
        ('root ::= "' + "a" * 3000 + '"{2000}', "4194304"),
        ("root ::= nowhere", "line 1: the rule 'nowhere'|'nowhere' is not defined"),
        ('root ::= "a"\nroot2 ::= [a-', "line 2.*does not end"),
        ('root ::= "\\q"', r"line 1: unknown escape, got \\q"),
        ('root ::= "a" )', "end of the rule"),
        ("root ::= (", r"expected \)"),
        ("root ::= *", "item before"),
        ('root = "a"', "::="),
        ("root ::= <[99999999999]>", "token"),
        ("root ::= <no such token at all>", "one token"),
        ('root ::= root "a" | "b"', "left recursion"),
        ('root ::= a\na ::= b\nb ::= e a "x" | "y"\ne ::= f\nf ::= ""', "left recursion"),
        ("root ::= r0" + "".join(f'\nr{i} ::= r{i + 1} "x"' for i in range(9)) + '\nr9 ::= r0 | "a"', "left recursion"),
        ("root ::= root", "recursion"),
    ],
)
def test_refused_with_the_reason(tiny: Model, capfd: pytest.CaptureFixture[str], grammar: str, words: str) -> None:
    before = time.process_time()
    with pytest.raises(GrammarError, match=words) as caught:
        Sampler.initGrammar(tiny.vocab, grammar)
    assert caught.value.operation == "llama_sampler_init_grammar"
    assert time.process_time() - before < 5
    assert capfd.readouterr() == ("", "")


DOUBLING = "root ::= r0\n" + "".join(f"r{i} ::= r{i + 1} | r{i + 1}\n" for i in range(60)) + 'r60 ::= "a"'


@pytest.mark.parametrize(
    "grammar",
    [
        'root ::= "b"? ' + '"a"? ' * 300,
        "root ::= " + "[a-z]? " * 1500,
        DOUBLING,
        DOUBLING.replace('"a"', '(""|[]) "a"?'),
        "root ::= r0\n" + "".join(f"r{i} ::= r{i + 1}\n" for i in range(20000)) + 'r20000 ::= "a"+',
        "root ::= " + "(" * 250 + '"a"?' + ")*" * 250,
        'root ::= ("a" | "a" | "aa" | [a-z] | [^b])* "b"',
        'root ::= r*\nr ::= "(" r e | "b" | "a"\ne ::= "" | ""',
        "root ::= [" + "".join(f"\\U{c:08x}" for c in range(0x61, 0x61 + 40000)) + "]+",
        'root ::= "a"{0,2000}',
        'root ::= ("a" ("b" | "a"?)?){2,40}',
        "root ::= " + " ".join('("a" | "b" | "aa")*' for _ in range(60)),
    ],
    ids=lambda grammar: str(grammar)[:30].replace("\n", ";"),
)
def test_ambiguous_grammars_take_no_time(tiny: Model, grammar: str) -> None:
    """llama.cpp's sampler takes seconds to years for most of them."""
    vocab = tiny.vocab
    a = next(t for t in range(3, 32000) if vocab.tokenToPiece(t) == "a")
    before = time.process_time()
    with Sampler.initGrammar(vocab, grammar) as sampler:
        for _ in range(3):
            assert mask(sampler._c, vocab.nTokens)[a]
            sampler.accept(a)
            sampler.clone().free()
            if "r60" in grammar:
                break
    assert time.process_time() - before < 10


def test_work_for_a_token_is_limited(tiny: Model) -> None:
    """Each a multiplies the ways to go on by 40."""
    rules = " | ".join(f'"a" x y{i}' for i in range(40))
    grammar = f'root ::= x\nx ::= {rules} | "b"\n' + "".join(
        f'y{i} ::= "{chr(99 + i % 20)}" "{i}"\n' for i in range(40)
    )
    a = next(t for t in range(3, 32000) if tiny.vocab.tokenToPiece(t) == "a")
    with Sampler.initGrammar(tiny.vocab, grammar) as sampler:
        before = time.process_time()
        with pytest.raises(GrammarError, match=r"33554432 steps|1048576 rules"):
            for _ in range(50):
                mask(sampler._c, tiny.vocab.nTokens)
                sampler.accept(a)
        assert time.process_time() - before < 20
        sampler.reset()
        one = TokenDataArray([(a, 1.0)])
        sampler.apply(one)
        assert one[0].logit == 1.0
