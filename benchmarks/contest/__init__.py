"""The binding against a C program and against other bindings: `make bench`."""
