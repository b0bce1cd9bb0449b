"""An exception at every point of the facade: `python -m tests.interrupts`, and a slice of it in `make test`."""
