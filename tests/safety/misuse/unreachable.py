"""What hurts llama.cpp and cannot be done through the facade: it is not there."""

from __future__ import annotations

FUNCTIONS = {
    "ggml_backend_unload": "models and contexts would go on using its code",
    "ggml_threadpool_get_n_threads": "exported by no library; the pool knows its number of threads itself",
    "gguf_init_from_file_ptr": "takes a FILE * of this C library",
    "gguf_write_to_file_ptr": "takes a FILE * of this C library",
    "llama_adapter_lora_init_from_file_ptr": "takes a FILE * of this C library",
    "llama_model_init_from_user": "lets a C callback write to tensors whose size it has to guess",
    "llama_model_load_from_file_ptr": "takes a FILE * of this C library",
    "llama_opt_epoch": "asserts on nearly every wrong argument; `fineTune` calls it on a context of its own",
    "llama_opt_init": "asserts when it is called twice; `fineTune` calls it on a context of its own",
    "llama_opt_param_filter_all": "`fineTune` passes it",
}
"""C functions without a place in the facade."""

ABSENT_FROM_LIB = (
    "ggml_threadpool_get_n_threads",
    "gguf_init_from_file_ptr",
    "gguf_write_to_file_ptr",
    "llama_adapter_lora_init_from_file_ptr",
    "llama_model_load_from_file_ptr",
)
"""Those that the raw layer lacks as well."""

FIELDS = {
    "Context.Params.ctxOther": "a context that may be freed before this one",
    "Context.Params.cbEvalUserData": "a raw pointer; `cbEvalData` takes any object",
    "Context.Params.abortCallback": "a raw pointer; `abortCb` takes a function",
    "Sampler.iface": "a table of raw functions; `Sampler.init` takes an object",
    "Sampler.ctx": "a raw pointer; the object that `Sampler.init` takes has its own",
    "TokenDataArray.pointer": "the memory is the array's own",
}
"""Fields of structs that the facade has no attribute for: dotted name to what could go wrong with it."""
