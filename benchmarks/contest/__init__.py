"""Compares the facade with a C program and with other bindings: `make bench`."""
