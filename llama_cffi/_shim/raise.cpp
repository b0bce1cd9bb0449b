#include <Python.h>

#include "guard.hpp"

#include <cstring>

/* Calls llama_cffi._handle.raise_guarded(kind, function, message, suspects), which always raises. Returns NULL. */
extern "C" PyObject * shim_raise(void) {
    const guard::Error error = guard::error();
    guard::error().kind      = SHIM_OK;

    PyObject * module   = PyImport_ImportModule("llama_cffi._handle");
    PyObject * function = module ? PyObject_GetAttrString(module, "raise_guarded") : nullptr;
    PyObject * suspects = function ? PyTuple_New(error.n_suspects) : nullptr;
    for (int i = 0; suspects && i < error.n_suspects; i++) {
        PyObject * address = PyLong_FromVoidPtr(const_cast<void *>(error.suspects[i]));
        if (address == nullptr) {
            Py_CLEAR(suspects);
        } else {
            PyTuple_SetItem(suspects, i, address);
        }
    }
    PyObject * message = suspects ? PyUnicode_DecodeUTF8(error.message, strlen(error.message), "replace") : nullptr;
    PyObject * result  = message ? PyObject_CallFunction(function, "isOO", error.kind, error.function, message, suspects)
                                 : nullptr;
    Py_XDECREF(result);
    Py_XDECREF(message);
    Py_XDECREF(suspects);
    Py_XDECREF(function);
    Py_XDECREF(module);
    if (!PyErr_Occurred()) {
        PyErr_SetString(PyExc_SystemError, "a guarded call failed, and raise_guarded did not raise");
    }
    return nullptr;
}
