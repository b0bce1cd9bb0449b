/* C functions whose bodies are Python, in llama_cffi/_core/callbacks.py and sampling/custom.py. Read by cffi, and by
 * callbacks.cpp, which calls them; `data` is a handle. */
extern "Python+C" bool python_progress(float progress, void * data);
extern "Python+C" bool python_abort(void * data);
extern "Python+C" bool python_eval(struct ggml_tensor * tensor, bool ask, void * data);

/* A sampler written in Python: the members of struct llama_sampler_i. */
extern "Python+C" const char * python_sampler_name(const struct llama_sampler * sampler);
extern "Python+C" void python_sampler_accept(struct llama_sampler * sampler, llama_token token);
extern "Python+C" void python_sampler_apply(struct llama_sampler * sampler, llama_token_data_array * candidates);
extern "Python+C" void python_sampler_reset(struct llama_sampler * sampler);
extern "Python+C" struct llama_sampler * python_sampler_clone(const struct llama_sampler * sampler);
extern "Python+C" void python_sampler_free(struct llama_sampler * sampler);
