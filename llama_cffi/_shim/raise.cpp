/* Raises the errors of guarded calls as Python exceptions, and handles Python's signals during a computation. */
#include "ownership.hpp"

#include "guard.hpp"
#include "threads.hpp"

#include <chrono>
#include <cstring>

namespace {

/* The exception that a Python signal handler raised in shim_abort, until the interrupted call ends. */
thread_local PyObject * signal_error[3] = {};

/* Calls a function of the package and releases `arguments`. Returns a new reference, or null with an exception set.
 * tests/contract/test_raise.py checks that each module and function exists. */
PyObject * call_python(const char * from, const char * name, PyObject * arguments) {
    PyObject * module   = PyImport_ImportModule(from);
    PyObject * function = module ? PyObject_GetAttrString(module, name) : nullptr;
    PyObject * result   = function && arguments ? PyObject_CallObject(function, arguments) : nullptr;
    Py_XDECREF(function);
    Py_XDECREF(module);
    Py_XDECREF(arguments);
    return result;
}

/* Calls raise_guarded(kind, function, message, suspects), which always raises. */
void raise_error(const guard::Error & error) {
    PyObject * suspects = PyTuple_New(error.n_suspects);
    for (int i = 0; suspects && i < error.n_suspects; i++) {
        PyObject * address = PyLong_FromVoidPtr(const_cast<void *>(error.suspects[i]));
        if (address == nullptr) {
            Py_CLEAR(suspects);
        } else {
            PyTuple_SetItem(suspects, i, address);
        }
    }
    PyObject * message = PyUnicode_DecodeUTF8(error.message, strlen(error.message), "replace");
    PyObject * arguments =
        suspects && message ? Py_BuildValue("(isOO)", error.kind, error.function, message, suspects) : nullptr;
    Py_XDECREF(message);
    Py_XDECREF(suspects);
    Py_XDECREF(call_python("llama_cffi._core.guard_errors", "raise_guarded", arguments));
    if (!PyErr_Occurred()) {
        PyErr_SetString(PyExc_SystemError, "a guarded call failed, but raise_guarded did not raise");
    }
}

/* Warns the caller of the facade. Returns false with an exception set if warnings are errors. */
bool warn(const char * deprecated) {
    const CallLog call = call_last();
    PyObject * result  = call_python("llama_cffi._core.user_warnings", "deprecated", Py_BuildValue("(s)", deprecated));
    call_last()        = call;
    Py_XDECREF(result);
    return result != nullptr;
}

/* Raises the exception that is set after this call, at the next step of this thread's Python code. */
void raise_later() {
    PyObject *kind, *value, *trace;
    PyErr_Fetch(&kind, &value, &trace);
    PyThreadState_SetAsyncExc(PyThread_get_thread_ident(), kind);
    Py_XDECREF(kind);
    Py_XDECREF(value);
    Py_XDECREF(trace);
}

bool is_main_interpreter() {
    if (PyInterpreterState_GetID(PyInterpreterState_Get()) == 0) {
        return true;
    }
    PyErr_SetString(PyExc_ImportError,
                    "llama_cffi works only in the main interpreter of a process: import it there, or use processes");
    return false;
}

}  // namespace

extern "C" bool shim_finish_call(void) {
    const guard::Error error      = guard::error();
    const char *       deprecated = guard::pop_deprecated();
    guard::error().kind           = SHIM_OK;
    PyObject * signal[3]          = {signal_error[0], signal_error[1], signal_error[2]};  // before the log target runs
    signal_error[0] = signal_error[1] = signal_error[2] = nullptr;
    if (shim_log_waiting()) {
        const CallLog call = call_last();  // calls of the target must not replace it
        shim_enter_python();
        PyObject * result = call_python("llama_cffi._core.native_log", "deliver_log", PyTuple_New(0));
        shim_leave_python();
        call_last() = call;
        if (result == nullptr && !PyErr_ExceptionMatches(PyExc_Exception)) {
            if (signal[0] == nullptr) {
                raise_later();  // Ctrl-C in the target; raised here, what the call has made would be lost
            } else {
                PyErr_Clear();  // the second one
            }
        } else if (result == nullptr) {
            PyErr_WriteUnraisable(nullptr);  // a failing log target must not hide the call's error
        }
        Py_XDECREF(result);
    }
    if (signal[0] != nullptr) {
        PyErr_Restore(signal[0], signal[1], signal[2]);
        return false;
    }
    if (error.kind == SHIM_OK || error.kind == SHIM_PYTHON) {
        return deprecated == nullptr || warn(deprecated);
    }
    if (error.kind == SHIM_CHECK_INTERPRETER) {
        return is_main_interpreter() && ownership_install();
    }
    raise_error(error);
    return false;
}

/* ggml calls this at every node of the graph, on the calling thread. Python is asked at most 20 times a second. */
extern "C" bool shim_abort(void * data) {
    using clock = std::chrono::steady_clock;

    static thread_local unsigned          calls = 0;
    static thread_local clock::time_point last  = clock::now();

    const auto * flag = static_cast<const volatile int32_t *>(data);
    if ((flag != nullptr && *flag != 0) || signal_error[0] != nullptr || shim_stopping()) {
        return true;
    }
    if (++calls % 16 != 0) {
        return false;
    }
    threads::sample();
    const auto now = clock::now();
    if (now - last < std::chrono::milliseconds(50)) {
        return false;
    }
    last = now;
    shim_enter_python();
    const PyGILState_STATE state       = PyGILState_Ensure();
    const bool             interrupted = PyErr_CheckSignals() != 0;  // does nothing on other threads than the main one
    if (interrupted) {
        PyErr_Fetch(&signal_error[0], &signal_error[1], &signal_error[2]);
        guard::error().kind = SHIM_PYTHON;
    }
    PyGILState_Release(state);
    shim_leave_python();
    return interrupted;
}
