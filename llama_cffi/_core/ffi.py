"""`ffi` and `lib` of the compiled extension, after a check of its ABI. No other module imports the extension."""

from __future__ import annotations

from llama_cffi._core import openmp

# ggml installs a terminate handler that starts a debugger, unless this variable is set when its library is loaded.
_ENVIRONMENT = {"GGML_NO_BACKTRACE": "1", **openmp.spin_environment()}

try:
    with openmp.environment(_ENVIRONMENT):
        import llama_cffi._native as native
        from llama_cffi._native import ffi, lib
except ModuleNotFoundError as error:
    raise ImportError(
        "llama_cffi._native is not built: run `pip install -e .` (or `make build`) in the source tree"
    ) from error
except ImportError as error:
    raise ImportError(
        f"llama_cffi._native does not fit the libraries beside it ({error}): reinstall the package, "
        "or run `make build` in the source tree"
    ) from error

from llama_cffi._generated.pin import ABI, PIN  # noqa: E402

try:
    _fits = ffi.string(lib.LLAMA_CFFI_PIN).decode() == PIN and lib.shim_abi() == ABI and lib.shim_libraries_agree()
except AttributeError as error:
    raise ImportError(
        f"the extension is of another version of this package ({error}): run `make build` in the source tree, or "
        "reinstall the package"
    ) from error
if not _fits:
    from llama_cffi._core import abi

    raise ImportError(abi.why_not(ffi, lib))

lib.shim_init()

# cffi creates each function and its types at first use, and fails an assertion, which ends the process, if two threads
# do that at once (seen with 2.1.1). So all are created here, in two milliseconds: this is the cheapest way.
vars(lib)

__all__ = ["PIN", "ffi", "lib", "native"]
