/* Included by the extension after Python.h: turns a guarded call's error into a Python exception.
 *
 * In cffi's generated functions, every C call ends with Py_END_ALLOW_THREADS. At that point the GIL is held again and
 * the result is not converted yet. The macro is redefined to check for a pending error there, so that no caller can
 * forget to. (Arguments that cffi copied to the heap leak if an error is raised, and only then.) */
#ifndef LLAMA_CFFI_RAISE_H
#define LLAMA_CFFI_RAISE_H

/* Ends a guarded call: delivers waiting log lines to their Python target, and raises the call's error. Returns false if
 * a Python exception is set. */
bool shim_finish_call(void);

#undef Py_END_ALLOW_THREADS
#define Py_END_ALLOW_THREADS                                           \
    PyEval_RestoreThread(_save);                                       \
    }                                                                  \
    if ((shim_pending() || shim_log_waiting()) && !shim_finish_call()) \
        return NULL;

#endif
