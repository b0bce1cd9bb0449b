/* Included by the extension after Python.h: turns a guarded call's error into a Python exception.
 *
 * cffi's generated functions end the C call with Py_END_ALLOW_THREADS, the point where the GIL is back and the result
 * not yet converted. That is where a pending error is looked at, so no caller can forget to. (Arguments that cffi
 * copied to the heap leak on that path, and only on that one.) */
#ifndef LLAMA_CFFI_RAISE_H
#define LLAMA_CFFI_RAISE_H

/* False with an exception set, if the call failed. Also hands waiting log lines to their Python target. */
bool shim_settle(void);

#undef Py_END_ALLOW_THREADS
#define Py_END_ALLOW_THREADS PyEval_RestoreThread(_save); } if ((shim_pending() || shim_log_waiting()) && !shim_settle()) return NULL;

#endif
