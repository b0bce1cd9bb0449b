"""The likeliest first mistakes, whose messages must name what works; and saves that cannot be finished."""

from __future__ import annotations

from tests.safety.misuse.case import CHECK, Case

# A call, the error, and words of its message. `m` is a model, `c` a context of it.
_CALLS = (
    ("Model('model.gguf')", "TypeError", "Model.load(path)"),
    ("Context(m)", "TypeError", "Context.initFromModel(model)"),
    ("Sampler(temperature=.5)", "TypeError", "defaultSampler(temperature, seed)"),
    ("Sampler()", "TypeError", "Sampler.initTemp"),
    ("Adapter(m, 'lora.gguf')", "TypeError", "Adapter.loraInit(model, path)"),
    ("Vocab()", "TypeError", "model.vocab"),
    ("Vocab('x', {})", "TypeError", "model.vocab"),
    ("Memory(5, 1, True)", "TypeError", "ctx.getMemory()"),
    ("Batch([1, 2])", "TypeError", "Batch.getOne(tokens)"),
    ("BatchExt(c)", "TypeError", "BatchExt.init(ctx)"),
    ("Constraint('x')", "TypeError", "fromJsonSchema"),
    ("Request()", "TypeError", "engine.submit(prompt)"),
    ("Ggml.Backend()", "TypeError", "class methods"),
    ("Model.load(path(), nGpuLayers=3)", "TypeError", "params=Model.Params(nGpuLayers=...)"),
    ("Model.load(path(), n_gpu_layers=3)", "TypeError", "params=Model.Params(nGpuLayers=...)"),
    ("Model.load(path(), n_ctx=3)", "TypeError", "Context.Params(nCtx=...)"),
    ("Model.load(model_path=path())", "TypeError", "'path'"),
    ("Model.load(path(), None, True)", "TypeError", "untrusted=..."),
    ("Model.load()", "TypeError", "Model.load(path, params=None, *, untrusted=False)"),
    ("Context.initFromModel(m, nCtx=3)", "TypeError", "params=Context.Params(nCtx=...)"),
    ("Context.initFromModel(m, n_threads=3)", "TypeError", "params=Context.Params(nThreads=...)"),
    ("Generation(c, 'x', max_tokens=3)", "TypeError", "'maxTokens'"),
    ("Generation(c, 'x', n_predict=3)", "TypeError", "'maxTokens'"),
    ("Generation(c, 'x', temperature=3)", "TypeError", "defaultSampler(temperature=...)"),
    ("Generation(c, 'x', seed=3)", "TypeError", "defaultSampler(seed=...)"),
    ("Generation(c, 'x', top_k=3)", "TypeError", "defaultSampler(topK=...)"),
    ("Generation(c, 'x', topP=3)", "TypeError", "defaultSampler(topP=...)"),
    ("Generation(c, 'x', repetition_penalty=3)", "TypeError", "defaultSampler(repeatPenalty=...)"),
    ("Engine(m, nCtx=64).submit('x', mirostat_tau=3)", "TypeError", "mirostatTau=...)"),
    ("Generation(c, 'x', logit_bias={})", "TypeError", "logitBias={token: bias}, vocab=model.vocab)"),
    ("Sampler.initTopK(top_k=3)", "TypeError", "'k'"),
    ("Generation(c, 'x', nCtx=3)", "TypeError", "Context.Params(nCtx=...)"),
    ("Generation(c, 'x', Sampler.initGreedy())", "TypeError", "sampler=..."),
    ("Engine(m, n_ctx=64)", "TypeError", "'nCtx'"),
    ("ChatSession(c, template='chatml').send('x', max_tokens=3)", "TypeError", "'maxTokens'"),
    ("tokenize(m.vocab, 'x', add_special=True)", "TypeError", "'addSpecial'"),
    ("Sampler.initPenalties(64, penalty_repeat=1.1)", "TypeError", "'penaltyRepeat'"),
    ("Context.Params(n_ctx=64)", "AttributeError", "'nCtx'"),
    ("m.n_params", "AttributeError", "'nParams'"),
    ("m.tokenize('x')", "AttributeError", "tokenize(model.vocab, text)"),
    ("m.bos", "AttributeError", "Vocab.bos"),
    ("c.n_ctx()", "AttributeError", "'nCtx'"),
    ("c.eval([1])", "AttributeError", "ctx.decode(batch)"),
    ("m.vocab.n_vocab()", "AttributeError", "nTokens"),
    ("Sampler.init_top_k(40)", "AttributeError", "'initTopK'"),
    ("Model.from_pretrained('x')", "AttributeError", "Model.load('hf:"),
    ("Generation(c, 'x').stop_reason", "AttributeError", "'stopReason'"),
    ("Ftype.Q4_0", "AttributeError", "'MOSTLY_Q4_0'"),
    ("StopReason.EOS", "AttributeError", "STOP_TOKEN"),
    ("import llama_cffi; llama_cffi.Llama", "AttributeError", "load(path)"),
    ("import llama_cffi; llama_cffi.llama_n_ctx", "AttributeError", "Context.nCtx"),
    ("import llama_cffi; llama_cffi.Modle", "AttributeError", "'Model'"),
    ("from llama_cffi import Llama", "ImportError", "load(path)"),
    ("import llama_cffi; llama_cffi.load('nope.gguf')", "FileNotFoundError", "directory: 'nope.gguf'"),
    ("import llama_cffi; llama_cffi.load('nope.gguf', n_ctx=64)", "TypeError", "'nCtx'"),
    ("import llama_cffi; llama_cffi.LLM(m).complete('x', max_tokens=3)", "TypeError", "'maxTokens'"),
    ("import llama_cffi; llama_cffi.LLM(m).create_chat_completion([])", "AttributeError", "'chat'"),
    ("from llama_cffi import generation as x, Generatoin", "ImportError", "'Generation'"),
    ("Ggml.Bakend", "AttributeError", "'Backend'"),
    ("Adapter.loraInit(m, 'nope.gguf')", "FileNotFoundError", "directory: 'nope.gguf'"),
    ("Model.quantize('nope.gguf', scratch())", "FileNotFoundError", "directory: 'nope.gguf'"),
    ("c.stateLoadFile('nope')", "FileNotFoundError", "directory: 'nope'"),
    ("Engine(m, nCtx=64).submit(5)", "TypeError", "prompt: expected a str or a list of tokens, got int"),
    ("Engine(m, nCtx=64).submit('x', stopTokens=5)", "TypeError", "stopTokens: expected a list of tokens, got int"),
    ("Embedder(load('bert')).embed(5)", "TypeError", "texts"),
    ("c.getMemory().seqRemove('x', 0, 1)", "TypeError", "got"),
)

_LIMIT = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({}, resource.RLIM_INFINITY))\n"
_M = "m = load('f32'); c = context(m); c.decode(batch(8))\n"

CASES = (
    *(
        Case(call, CHECK, "llama_model_load_from_file", f"m = load(); c = context(m)\n{call}", error, words)
        for call, error, words in _CALLS
    ),
    Case(
        "names that are looked for with a default",
        CHECK,
        "llama_model_n_params",
        "m = load(); assert not hasattr(m, 'n_params') and getattr(m, 'n_params', 5) == 5\n"
        "assert not hasattr(Ftype, 'Q4_0') and not hasattr(Sampler, 'topK')\n"
        "import llama_cffi; assert not hasattr(llama_cffi, 'Llama')",
    ),
    *(
        Case(
            f"{save}, with a limit of {limit} bytes",
            CHECK,
            function,
            _M + _LIMIT.format(limit) + save,
            "OSError",
            "large",
        )
        for save, function in (
            ("m.save(written(b'old'))", "llama_model_save_to_file"),
            ("c.stateSaveFile(written(b'old'))", "llama_state_save_file"),
            ("c.stateSeqSaveFile(written(b'old'), 0)", "llama_state_seq_save_file"),
        )
        for limit in (3, 20)
    ),
    Case(
        "a save to /dev/full", CHECK, "llama_model_save_to_file", _M + "m.save('/dev/full')", "OSError", "regular file"
    ),
)
