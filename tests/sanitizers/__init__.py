"""The native parts under the compiler's sanitizers: extension, guard and llama.cpp, all instrumented.

    make sanitize           # python -m tests.sanitizers address: AddressSanitizer and UndefinedBehaviorSanitizer
    make sanitize-threads   # python -m tests.sanitizers thread: ThreadSanitizer

Paths of tests after the name run those instead of the default ones. The ordinary build is not touched: a copy of the
checkout under `build/` gets an instrumented extension and instrumented libraries, which the cache keeps like any other
build of llama.cpp, and the tests run there. `suppressions/` lists what is known and harmless, with the reason.

Every file of tests is a pytest process of its own, so that a sanitizer that ends one does not hide what comes after it,
and two run at a time: twenty minutes for `address` on two cores, beside what the first build takes.
The last line counts tests, reports (also those made in child processes) and processes that died. Reports stay in
`build/sanitize-<name>/reports/`. This package is not run by pytest itself: it takes too long for every change.
"""
