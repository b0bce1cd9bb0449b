"""The wheel for aarch64 on an emulated machine: `make wheel-arm-test`. Not part of `make test`."""
