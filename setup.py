"""Build llama.cpp's libraries, then the extension on top of them. The metadata is in pyproject.toml."""

import sys
from pathlib import Path

from setuptools import setup

sys.path.insert(0, str(Path(__file__).resolve().parent))  # build front ends do not put it there

from vendor.build.commands import build_ext, build_py, egg_info, sdist

setup(
    cffi_modules=["build_ffi.py:ffibuilder"],
    cmdclass={"build_ext": build_ext, "build_py": build_py, "egg_info": egg_info, "sdist": sdist},
    options={"bdist_wheel": {"py_limited_api": "cp310"}},
)
