"""LoRA adapters."""

from __future__ import annotations

from tests.safety.misuse.case import CHECK, GUARD, OWNERSHIP, Case

_SETUP = "m = load(); c = context(m); a = Adapter.loraInit(m, path('lora'))\n"

CASES = (
    Case("no path", CHECK, "llama_adapter_lora_init", "Adapter.loraInit(load(), None)", "TypeError", "path"),
    Case("no model", CHECK, "llama_adapter_lora_init", "Adapter.loraInit(None, path('lora'))", "TypeError", "Model"),
    Case(
        "a NUL in the path", CHECK, "llama_adapter_lora_init", r"Adapter.loraInit(load(), 'a\0b')", "ValueError", "NUL"
    ),
    Case(
        "a file that is not there",
        CHECK,
        "llama_adapter_lora_init",
        "Adapter.loraInit(load(), 'no')",
        "FileNotFoundError",
    ),
    Case("a model as an adapter", CHECK, "llama_adapter_lora_init", "Adapter.loraInit(load(), path())", "AdapterError"),
    Case("an empty file", CHECK, "llama_adapter_lora_init", "Adapter.loraInit(load(), written(b''))", "AdapterError"),
    Case(
        "an adapter for another kind of model",
        CHECK,
        "llama_adapter_lora_init",
        "Adapter.loraInit(load('mamba'), path('lora'))",
        "AdapterError",
    ),
    Case(
        "an adapter for wider weights",
        CHECK,
        "llama_adapter_lora_init",
        "Adapter.loraInit(load(), path('lora-wide'))",
        "AdapterError",
    ),
    Case(
        "a vocabulary only",
        CHECK,
        "llama_adapter_lora_init",
        "Adapter.loraInit(load(vocabOnly=True), path('lora'))",
        "ValueError",
        "vocabOnly",
    ),
    Case(
        "a model without memory",
        CHECK,
        "llama_adapter_lora_init",
        "Adapter.loraInit(load(noAlloc=True, loadMode=LoadMode.NONE), path('lora'))",
        "ValueError",
        "noAlloc",
    ),
    Case(
        "a model that was freed",
        OWNERSHIP,
        "llama_adapter_lora_init",
        "m = load(); m.free(); Adapter.loraInit(m, path('lora'))",
        "ClosedError",
        "it was freed",
    ),
    Case(
        "truncated files",
        CHECK,
        "llama_adapter_lora_init",
        "m = load(); data = path('lora').read_bytes()\n"
        "for n in range(0, len(data) - 1, 997): raises(AdapterError, lambda: Adapter.loraInit(m, written(data[:n])))",
    ),
    Case(
        "an alpha of another type",
        GUARD,
        "llama_adapter_lora_init",
        "data = bytearray(path('lora').read_bytes()); key = b'adapter.lora.alpha'\n"
        "data[data.index(key) + len(key)] = 4; Adapter.loraInit(load(), written(bytes(data)))",
        "AdapterError",
    ),
    Case(
        "tensors of three dimensions",
        CHECK,
        "llama_adapter_lora_init",
        "m = load(); Adapter.loraInit(m, path('lora-3d')); decoded(m)",
        "AdapterError",
    ),
    # On contexts
    Case(
        "no adapter",
        CHECK,
        "llama_set_adapters_lora",
        "context().setAdapterLora(None)",
        "TypeError",
        "Adapter.loraInit",
    ),
    Case(
        "an adapter of another model",
        OWNERSHIP,
        "llama_set_adapters_lora",
        "a = Adapter.loraInit(load(), path('lora')); context().setAdapterLora(a)",
        "ValueError",
        "another model",
    ),
    *(
        Case(
            f"a scale of {scale}",
            CHECK,
            "llama_set_adapters_lora",
            _SETUP + f"c.setAdapterLora(a, {scale})",
            error,
            "scale",
        )
        for scale, error in (
            ("math.nan", "ValueError"),
            ("math.inf", "ValueError"),
            ("-math.inf", "ValueError"),
            ("1e300", "ValueError"),
            ("'x'", "TypeError"),
        )
    ),
    Case(
        "an adapter twice",
        CHECK,
        "llama_set_adapters_lora",
        _SETUP + "c.setAdaptersLora([a, a], [1.0, 2.0])",
        "ValueError",
        "twice",
    ),
    Case(
        "fewer scales than adapters",
        CHECK,
        "llama_set_adapters_lora",
        _SETUP + "c.setAdaptersLora([a], [])",
        "ValueError",
        "1 items, one per adapter, got 0",
    ),
    Case(
        "more scales than adapters",
        CHECK,
        "llama_set_adapters_lora",
        _SETUP + "c.setAdaptersLora([], [1.0])",
        "ValueError",
        "0 items, one per adapter, got 1",
    ),
    Case("None for adapters", CHECK, "llama_set_adapters_lora", "context().setAdaptersLora(None)", "TypeError"),
    Case(
        "an adapter that was not set", CHECK, "llama_set_adapters_lora", _SETUP + "assert c.removeAdapterLora(a) == -1"
    ),
    Case(
        "NULL adapters past the facade",
        GUARD,
        "llama_set_adapters_lora",
        "c = context(); lib.llama_set_adapters_lora(c._c, ffi.NULL, 1, ffi.NULL)",
        "NativeAssertionError",
    ),
    Case(
        "adapters changed after the first decode",
        GUARD,
        "llama_set_adapters_lora",
        _SETUP
        + "c.decode(batch()); c.setAdapterLora(a, 2.0); c.decode(batch()); c.clearAdapterLora(); c.decode(batch())",
    ),
    Case(
        "an adapter set inside a decode",
        OWNERSHIP,
        "llama_set_adapters_lora",
        "m = load(); a = Adapter.loraInit(m, path('lora'))\ndef stop(): c.setAdapterLora(a)\n"
        "c = context(m, abortCb=stop); c.decode(batch())",
        "BusyError",
        "in use",
    ),
    # The end
    Case(
        "freed while a context uses it",
        OWNERSHIP,
        "llama_adapter_lora_free",
        _SETUP + "c.setAdapterLora(a); c.decode(batch()); a.loraFree(); gc.collect(); c.decode(batch())",
    ),
    Case(
        "forgotten while a context uses it",
        OWNERSHIP,
        "llama_adapter_lora_free",
        _SETUP + "c.setAdapterLora(a); del a; gc.collect(); c.decode(batch()); c.decode(batch())",
    ),
    Case(
        "freed while the context decodes",
        OWNERSHIP,
        "llama_adapter_lora_free",
        _SETUP + "c.setAdapterLora(a)\n"
        "def work(): c.getMemory().clear(False); c.decode(batch(64))\n"
        "only(together(work, lambda: time.sleep(0.001) or a.loraFree()), BusyError); c.getMemory().clear(); "
        "c.decode(batch())",
    ),
    Case(
        "freed twice",
        OWNERSHIP,
        "llama_adapter_lora_free",
        _SETUP + "a.loraFree(); a.loraFree(); m.free(); a.loraFree()",
    ),
    Case(
        "freed after its model",
        OWNERSHIP,
        "llama_adapter_lora_free",
        _SETUP + "m.free(); a.loraFree(); a.loraFree(); assert a.closed and c.closed",
    ),
    Case(
        "set after its end",
        OWNERSHIP,
        "llama_set_adapters_lora",
        _SETUP + "a.loraFree(); c.setAdapterLora(a)",
        "ClosedError",
        "it was freed",
    ),
    *(
        Case(
            f"{call} after its end",
            OWNERSHIP,
            function,
            _SETUP + f"m.free(); a.{call}",
            "ClosedError",
            "its model was freed",
        )
        for call, function in (
            ("metaCount", "llama_adapter_meta_count"),
            ("metaValStr('x')", "llama_adapter_meta_val_str"),
            ("metaKeyByIndex(0)", "llama_adapter_meta_key_by_index"),
            ("metaValStrByIndex(0)", "llama_adapter_meta_val_str_by_index"),
            ("getAloraNInvocationTokens()", "llama_adapter_get_alora_n_invocation_tokens"),
            ("getAloraInvocationTokens()", "llama_adapter_get_alora_invocation_tokens"),
        )
    ),
    Case("no key", CHECK, "llama_adapter_meta_val_str", _SETUP + "a.metaValStr(None)", "TypeError", "key"),
    Case(
        "a buffer that is too small",
        CHECK,
        "llama_adapter_meta_val_str",
        _SETUP + "a.metaValStr('x', bytearray(2), 3)",
        "ValueError",
        "room for 2",
    ),
    Case(
        "indices that are none",
        CHECK,
        "llama_adapter_meta_key_by_index",
        _SETUP + "for i in (-1, 999): assert a.metaKeyByIndex(i) is a.metaValStrByIndex(i) is None",
    ),
    Case(
        "loaded by several threads",
        OWNERSHIP,
        "llama_adapter_lora_init",
        "m = load(); c = context(m, nThreads=1, nThreadsBatch=1)\n"
        "def make(): Adapter.loraInit(m, path('lora')).loraFree()\n"
        "def work(): c.getMemory().clear(); c.decode(batch())\n"
        "only(together(make, make, work), BusyError)",
    ),
    Case(
        "copies of an adapter",
        OWNERSHIP,
        "llama_adapter_lora",
        _SETUP + "copy.copy(a)",
        "TypeError",
        "cannot be copied",
    ),
)
