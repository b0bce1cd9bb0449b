/* Python types that own C objects and locks; see ownership.cpp. Include it before any other header. */
#pragma once

#include <Python.h>

/* Adds the types and functions to the extension's module. Returns false with an exception set. */
bool ownership_install();

/* A function for Python; see large_stack.cpp. */
PyObject * large_stack(PyObject * module, PyObject * arguments);
