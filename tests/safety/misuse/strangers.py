"""What others wrote: files that are not files, tokenizers that take for ever, templates and tool calls."""

from __future__ import annotations

from tests.safety.misuse.case import CHECK, Case

_FIFO = "p = scratch(); os.mkfifo(p)\n"
_SPECIAL = (
    ("a FIFO", _FIFO, "OSError", "a FIFO"),
    ("a socket", "import socket\np = scratch(); s = socket.socket(socket.AF_UNIX); s.bind(p)\n", "OSError", "a socket"),
    ("a device", "p = '/dev/zero'\n", "OSError", "a character device"),
    ("a folder", "p = str(FOLDER)\n", "IsADirectoryError", ""),
    ("a link to a FIFO", _FIFO + "q = scratch('x'); os.symlink(p, q); p = q\n", "OSError", "a FIFO"),
)
_READERS = (
    ("a model", "llama_model_load_from_file", "Model.load(p)"),
    ("an untrusted model", "llama_model_load_from_file", "Model.load(p, untrusted=True)"),
    ("a part of a model", "llama_model_load_from_splits", "Model.loadSplits([path(), p])"),
    ("an adapter", "llama_adapter_lora_init", "Adapter.loraInit(load(), p)"),
    ("a model to quantize", "llama_model_quantize", "Model.quantize(p, scratch('out'))"),
    ("a state", "llama_state_load_file", "context().stateLoadFile(p)"),
    ("the state of a sequence", "llama_state_seq_load_file", "context().stateSeqLoadFile(p, 0)"),
)

CASES = (
    *(
        Case(f"{kind} as {what}", CHECK, function, setup + call, error, words)
        for kind, setup, error, words in _SPECIAL
        for what, function, call in _READERS
    ),
    Case(
        "a FIFO as the second file of a split model",
        CHECK,
        "llama_model_load_from_file",
        "import shutil\np = scratch('m-00001-of-00002.gguf'); shutil.copy(path('split-0'), p)\n"
        "os.mkfifo(p.replace('00001', '00002', 1)); Model.load(p)",
        "OSError",
        "a FIFO",
    ),
    Case(
        "Ctrl-C while a long text is tokenized",
        CHECK,
        "llama_tokenize",
        "import signal\nv = load().vocab; began = time.monotonic()\n"
        "signal.signal(signal.SIGALRM, lambda *_: 1 / 0); signal.setitimer(signal.ITIMER_REAL, 0.3)\n"
        "try: tokenize(v, 'ab ' * 20_000_000)\n"
        "finally: assert time.monotonic() - began < 5",
        "ZeroDivisionError",
    ),
    *(
        Case(
            f"a chat template with {name}",
            CHECK,
            "",
            f"ChatTemplate(load(), {source}).render([])",
            "ValueError",
            "the chat template",
        )
        for name, source in (
            ("a long text", repr("{{ 'x' * 1000000000 }}")),
            (
                "nested loops",
                repr("{% for i in range(99999) %}{% for j in range(99999) %}{{ i }}{% endfor %}{% endfor %}"),
            ),
            ("wide columns", repr("{{ '%1000000000d' % 1 }}")),
            ("a large number", repr("{{ 9 ** (9 ** 9) }}")),
            ("a macro that calls itself", repr("{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}")),
            ("100,000 parentheses", "'{{ ' + '(' * 100_000 + '1' + ')' * 100_000 + ' }}'"),
        )
    ),
    Case(
        "90,000 tool calls that do not parse",
        CHECK,
        "",
        "began = time.process_time()\n"
        "assert len(parseToolCalls('<tool_call>{' * 90_000, ToolFormat.HERMES).problems) == 90_000\n"
        "assert time.process_time() - began < 5",
    ),
)
