/* C functions whose bodies are Python (`ffi.def_extern`), in llama_cffi/_core/callbacks.py and sampling/custom.py. cffi
 * reads this file, and callbacks.cpp calls the functions. Keep the declarations simple: see shim.h. */

/* Reports progress of loading a model. `data` is a handle (`ffi.new_handle`). False cancels the load. */
extern "Python+C" bool python_progress(float progress, void * data);

/* True aborts the computation. `data` is a handle. */
extern "Python+C" bool python_abort(void * data);

/* Shows a tensor of the graph: first with `ask` (return true to see the data), then with its data (false: stop).
 * `data` is a handle. */
extern "Python+C" bool python_eval(struct ggml_tensor * tensor, bool ask, void * data);

/* Computes a tensor by a custom operation. `data` is a handle. False: it raised. */
extern "Python+C" bool python_custom(struct ggml_tensor * tensor, void * data);

/* A sampler written in Python: the members of struct llama_sampler_i. */
extern "Python+C" const char * python_sampler_name(const struct llama_sampler * sampler);
extern "Python+C" void python_sampler_accept(struct llama_sampler * sampler, int32_t token);
extern "Python+C" void python_sampler_apply(struct llama_sampler * sampler, struct llama_token_data_array * candidates);
extern "Python+C" void python_sampler_reset(struct llama_sampler * sampler);
extern "Python+C" void * python_sampler_clone(const struct llama_sampler * sampler); /* the user data of the clone */
extern "Python+C" void python_sampler_free(struct llama_sampler * sampler);
