"""Backends, devices, names, chat templates, the log: what belongs to the library as a whole."""

from __future__ import annotations

from tests.safety.misuse.case import CHECK, GUARD, OWNERSHIP, Case

_CHAT = "chat = [ChatMessage('user', 'hello')]\n"

CASES = (
    # Backends
    Case("a model before any backend", OWNERSHIP, "llama_model_load_from_file", "decoded()", alone=True),
    Case(
        "a model before any backend past the facade",
        GUARD,
        "llama_model_load_from_file",
        "assert lib.llama_model_load_from_file(bytes(path()), lib.llama_model_default_params()) == ffi.NULL",
        alone=True,
    ),
    Case(
        "the backend loaded by several threads",
        OWNERSHIP,
        "ggml_backend_load",
        "only(together(*[Ggml.Backend.cpuLoad] * 4))",
        alone=True,
    ),
    Case(
        "a backend in the working directory",
        CHECK,
        "ggml_backend_load_best",
        "name = written(b'not a library'); os.chdir(os.path.dirname(name)); os.rename(name, 'libggml-cpu-evil.so')\n"
        "Ggml.Backend.cpuLoad(); backendInit(); decoded()\n"
        "assert not any('evil' in line for line in open('/proc/self/maps'))",
        alone=True,
    ),
    Case(
        "Vulkan where there is none",
        CHECK,
        "ggml_backend_load",
        "warnings.simplefilter('ignore'); Ggml.Backend.vkLoad(); Ggml.Backend.vkLoad()",
    ),
    Case(
        "a variant that there is none of",
        CHECK,
        "ggml_backend_load",
        "os.environ['LLAMA_CFFI_CPU_VARIANT'] = 'pdp11'\n"
        "try: Ggml.Backend.cpuLoad()\n"
        "finally: del os.environ['LLAMA_CFFI_CPU_VARIANT']",
        "UnavailableError",
        "pdp11",
        alone=True,
    ),
    *(
        Case(
            f"device {index}",
            CHECK,
            "ggml_backend_dev_get",
            f"Ggml.BackendDevice.get({index})",
            "IndexError",
            str(index),
        )
        for index in (-1, 99, 1 << 64)
    ),
    *(
        Case(f"{function} past the facade", GUARD, function, f"lib.{function}(99)", "NativeAssertionError", function)
        for function in ("ggml_backend_dev_get", "ggml_backend_reg_get")
    ),
    Case(
        "a device of no name", CHECK, "ggml_backend_dev_by_name", "assert Ggml.BackendDevice.byName('nonsense') is None"
    ),
    Case(
        "a device of a type that is none",
        CHECK,
        "ggml_backend_dev_by_type",
        "Ggml.BackendDevice.byType(99)",
        "ValueError",
        "99",
    ),
    Case(
        "a device made by hand", CHECK, "ggml_backend_dev_get", "Ggml.BackendDevice(0).name", "TypeError", "devices()"
    ),
    Case(
        "a device's memory type that is none",
        CHECK,
        "ggml_backend_dev_supports_buft",
        "Ggml.BackendDevice.get(0).supportsBuft(None)",
        "TypeError",
        "BackendBufferType",
    ),
    Case(
        "a device's memory type made by hand",
        CHECK,
        "ggml_backend_buft_name",
        "Ggml.BackendBufferType(0).name",
        "TypeError",
        "devices()",
    ),
    Case(
        "a device made of another pointer",
        CHECK,
        "ggml_backend_dev_name",
        "Ggml.BackendDevice(ffi.NULL)",
        "TypeError",
        "devices()",
    ),
    Case(
        "init and free in any order",
        CHECK,
        "llama_backend_free",
        "c = decoded()\n"
        "for call in (backendFree, backendInit, backendInit, backendFree, backendFree): call(); "
        "c.decode(batch())",
    ),
    Case("NUMA of no strategy", CHECK, "llama_numa_init", "numaInit(99)", "ValueError", "99"),
    Case("NUMA twice", CHECK, "llama_numa_init", "numaInit(0); numaInit(0)"),
    Case("NUMA before any backend", OWNERSHIP, "llama_numa_init", "numaInit(Ggml.NumaStrategy.DISABLED)", alone=True),
    Case(
        "NUMA before any backend past the facade",
        GUARD,
        "llama_numa_init",
        "lib.llama_numa_init(1)",
        "NativeAssertionError",
        alone=True,
    ),
    # Names
    Case("a type of no name", CHECK, "ggml_type_name", "Ggml.Type(99)", "ValueError", "99"),
    Case("flash attention of no name", CHECK, "llama_flash_attn_type_name", "flashAttnTypeName(7)", "ValueError", "7"),
    Case("a load mode of no name", CHECK, "llama_load_mode_name", "loadModeName(7)", "ValueError", "7"),
    Case(
        "a name of no load mode", CHECK, "llama_load_mode_from_str", "loadModeFromStr('nonsense')", "ValueError", "mmap"
    ),
    Case("a format of no name", CHECK, "llama_ftype_name", "assert isinstance(ftypeName(999), str)"),
    Case("a format beyond all numbers", CHECK, "llama_ftype_name", "ftypeName(1 << 40)", "OverflowError"),
    Case(
        "flash attention of no name past the facade",
        GUARD,
        "llama_flash_attn_type_name",
        "lib.llama_flash_attn_type_name(7)",
        "NativeAssertionError",
    ),
    Case(
        "a load mode of no name past the facade",
        GUARD,
        "llama_load_mode_name",
        "lib.llama_load_mode_name(7)",
        "NativeAssertionError",
    ),
    Case(
        "a name of no load mode past the facade",
        GUARD,
        "llama_load_mode_from_str",
        "lib.llama_load_mode_from_str(b'nonsense')",
        "NativeAssertionError",
        "nonsense",
    ),
    Case(
        "the system's text asked for by several threads",
        OWNERSHIP,
        "llama_print_system_info",
        "only(together(*[printSystemInfo] * 3))",
    ),
    # Chat
    Case(
        "a role that is None",
        CHECK,
        "llama_chat_apply_template",
        "chatApplyTemplate('chatml', [ChatMessage(None, 'x')])",
        "TypeError",
        "role",
    ),
    Case(
        "a content that is None",
        CHECK,
        "llama_chat_apply_template",
        "chatApplyTemplate('llama2', [ChatMessage('user', None)])",
        "TypeError",
        "content",
    ),
    Case(
        "a NUL in a content",
        CHECK,
        "llama_chat_apply_template",
        r"chatApplyTemplate('llama2', [ChatMessage('user', 'a\0b')])",
        "ValueError",
        "NUL",
    ),
    Case(
        "messages that are none",
        CHECK,
        "llama_chat_apply_template",
        "chatApplyTemplate('chatml', ['hello'])",
        "TypeError",
        "ChatMessage",
    ),
    Case(
        "None for messages",
        CHECK,
        "llama_chat_apply_template",
        "chatApplyTemplate('chatml', None)",
        "TypeError",
        "chat",
    ),
    Case(
        "more messages than there are",
        CHECK,
        "llama_chat_apply_template",
        _CHAT + "chatApplyTemplate('chatml', chat, 2)",
        "ValueError",
        "between 0 and 1, got 2",
    ),
    Case(
        "a template that is none",
        CHECK,
        "llama_chat_apply_template",
        _CHAT + "chatApplyTemplate('nonsense {{', chat)",
        "ValueError",
        "chatml",
    ),
    Case(
        "no template",
        CHECK,
        "llama_chat_apply_template",
        _CHAT + "chatApplyTemplate(None, chat)",
        "ValueError",
        "pass model=",
    ),
    Case(
        "the template of a model without one",
        CHECK,
        "llama_chat_apply_template",
        _CHAT + "chatApplyTemplate(load(), chat)",
        "ValueError",
        "no chat template",
    ),
    Case(
        "the template of a model that was freed",
        OWNERSHIP,
        "llama_model_chat_template",
        _CHAT + "m = load(); m.free(); chatApplyTemplate(m, chat)",
        "ClosedError",
        "freed",
    ),
    Case(
        "a buffer that is too small",
        CHECK,
        "llama_chat_apply_template",
        _CHAT + "b = bytearray(b'#' * 8); assert chatApplyTemplate('chatml', chat, None, True, b, 4) > 4; "
        "assert b[4:] == b'####'",
    ),
    Case(
        "a buffer smaller than it is said to be",
        CHECK,
        "llama_chat_apply_template",
        _CHAT + "chatApplyTemplate('chatml', chat, None, True, bytearray(2), 3)",
        "ValueError",
        "room for 2",
    ),
    Case(
        "every template on odd messages",
        CHECK,
        "llama_chat_apply_template",
        "odd = [ChatMessage(r, c) for r in ('', 'user', 'system', 'assistant', 'x' * 999) for c in ('', 'y' * 9999)]\n"
        "for name in chatBuiltinTemplates(): chatApplyTemplate(name, odd); chatApplyTemplate(name, [])",
    ),
    Case(
        "a content of NULL past the facade",
        GUARD,
        "llama_chat_apply_template",
        "r = ffi.new('char[]', b'user'); m = ffi.new('struct llama_chat_message[]', [(r, ffi.NULL)])\n"
        "lib.llama_chat_apply_template(b'llama2', m, 1, True, ffi.NULL, 0)",
        "NativeError",
    ),
    Case(
        "more templates than the array takes",
        CHECK,
        "llama_chat_builtin_templates",
        "chatBuiltinTemplates(ffi.new('char *[]', 2), 3)",
        "ValueError",
        "room for 2",
    ),
    Case(
        "an array of templates that is none",
        CHECK,
        "llama_chat_builtin_templates",
        "chatBuiltinTemplates(bytearray(99), 3)",
        "TypeError",
        "char *[]",
    ),
    # Split files
    *(
        Case(f"splitPath{arguments}", CHECK, "llama_split_path", f"splitPath{arguments}", error, words)
        for arguments, error, words in (
            ("(None, 0, 1)", "TypeError", "pathPrefix"),
            ("('a', 1, 1)", "ValueError", "splitNo must be between 0 and 0"),
            ("('a', -1, 1)", "ValueError", "splitNo"),
            ("('a', 0, 1 << 40)", "ValueError", "splitCount"),
            (r"('a\0', 0, 1)", "ValueError", "NUL"),
        )
    ),
    Case(
        "a long split path",
        CHECK,
        "llama_split_path",
        "p = splitPath('a' * 100_000, 0, 2); assert splitPrefix(p, 0, 2) == 'a' * 100_000",
    ),
    Case("the prefix of another path", CHECK, "llama_split_prefix", "assert splitPrefix('nonsense', 0, 2) is None"),
    Case("no split path", CHECK, "llama_split_prefix", "splitPrefix('', 0, 2)", "ValueError", "empty"),
    # The log
    Case(
        "a log target that raises",
        OWNERSHIP,
        "llama_log_set",
        "seen = []; sys.unraisablehook = lambda args: seen.append(args.exc_type)\n"
        "def log(level, text, data): raise KeyError\n"
        "logSet(log); load(); logSet(None); assert set(seen) == {KeyError}",
    ),
    Case(
        "a log target that is gone",
        OWNERSHIP,
        "llama_log_set",
        "logSet(lambda level, text, data: None); gc.collect(); decoded(); logSet(None); gc.collect(); decoded()",
    ),
    Case(
        "a log target that loads models",
        OWNERSHIP,
        "llama_log_set",
        "deep = []\n"
        "def log(level, text, data):\n"
        "    if not deep: deep.append(1); deep.append(load())\n"
        "logSet(log); load(); logSet(None); assert len(deep) == 2",
    ),
    Case("a log target that is none", CHECK, "llama_log_set", "logSet('x')", "TypeError", "str"),
    Case(
        "a log set by several threads",
        OWNERSHIP,
        "llama_log_set",
        "only(together(lambda: logSet(lambda *a: None), lambda: logSet(None), load, load, times=20)); logSet(None)",
    ),
    Case(
        "a log target on every thread",
        OWNERSHIP,
        "llama_log_set",
        "seen = set()\n"
        "logSet(lambda *a: seen.add(threading.get_ident())); only(together(load, load, times=5)); "
        "logSet(None); assert len(seen) == 2",
    ),
    # Buffers
    Case(
        "copies of parameters",
        OWNERSHIP,
        "llama_model_quantize_params",
        "copy.deepcopy(Model.QuantizeParams())",
        "TypeError",
        "cannot be copied",
    ),
    Case(
        "copies of times",
        OWNERSHIP,
        "llama_perf_context_data",
        "copy.copy(context().perfContext)",
        "TypeError",
        "cannot be copied",
    ),
    Case(
        "parameters that were never made",
        OWNERSHIP,
        "llama_context_params",
        "Context.Params.__new__(Context.Params).nCtx",
        "AttributeError",
    ),
    Case(
        "a misspelt parameter",
        CHECK,
        "llama_context_params",
        "Context.Params(nCtxx=5)",
        "AttributeError",
        "did you mean 'nCtx'",
    ),
    Case(
        "a parameter beyond its bits",
        CHECK,
        "llama_context_params",
        "Context.Params(nCtx=1 << 32)",
        "ValueError",
        "4294967295",
    ),
    Case(
        "a negative parameter",
        CHECK,
        "llama_context_params",
        "Context.Params(nCtx=-1)",
        "ValueError",
        "between 0 and 4294967295, got -1",
    ),
    Case(
        "a parameter that is True", CHECK, "llama_context_params", "Context.Params(nCtx=True)", "TypeError", "got True"
    ),
)
