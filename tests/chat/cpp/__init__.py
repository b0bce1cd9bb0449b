"""A small interpreter for the C++ in which llama.cpp writes its chat tests: data, helpers and calls of builders.

It knows declarations, assignments, blocks, `if`, loops over ranges, lambdas without parameters and expressions of
literals, names, calls and a few operators. Anything else raises `Unsupported`. In a test function, only the statement
that cannot be run is skipped, and `Interpreter.skipped` says which one and why.
"""

from tests.chat.cpp.interpreter import Interpreter
from tests.chat.cpp.tokens import Unsupported, sites, tokenize
from tests.chat.cpp.values import Function, Record

__all__ = ["Function", "Interpreter", "Record", "Unsupported", "sites", "tokenize"]
