"""What tests see differently with older versions of llama.cpp: their behaviour, not their API. Expected to fail there.

Each row: a test, by the end of its id; a C name, which versions lack that behave so; and what they do instead.
"""

from __future__ import annotations

_AUGUST_2025 = "llama_n_ctx_seq"

DIFFERENCES = (
    ("test_times_of_a_context", _AUGUST_2025, "graphs are not used again: see codegen/rules/adapters.py"),
    ("test_context_parameters[fields11-False]", _AUGUST_2025, "flash attention rounds otherwise"),
    ("test_decode_refuses_what_would_kill", _AUGUST_2025, "a batch has room for 64 tokens at least"),
    ("test_quantize_says_what_is_wrong", _AUGUST_2025, "the importance matrix is a container of C++, out of reach"),
    ("test_lazy_grammar", _AUGUST_2025, "a trigger token that the grammar does not take is dropped"),
    ('test_grammars_that_cannot_be[other ::= "a"-root]', _AUGUST_2025, "the reason is no log line"),
    ("test_grammars_that_cannot_be[root ::= root-recursion]", _AUGUST_2025, "the reason is no log line"),
    ('test_grammars_that_cannot_be[root ::= "a"{3000,3001}-cannot parse]', _AUGUST_2025, "repetitions have no limit"),
    ("test_grammar_errors_carry_the_log", _AUGUST_2025, "the reason is no log line"),
    ("test_the_end_of_the_interpreter_logs_nothing", _AUGUST_2025, "the tiny model's tokenizer is warned of"),
)
