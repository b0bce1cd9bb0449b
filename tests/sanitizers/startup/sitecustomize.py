"""Run by every Python that is started with this folder on PYTHONPATH, before anything else.

With both runtimes in one process, libubsan sets AddressSanitizer's report file in place of its own: both export the
function of that name, and the first one wins. Asked for by library, it is libubsan's.
"""

import ctypes
import os

_options = dict(word.partition("=")[::2] for word in os.environ.get("UBSAN_OPTIONS", "").split(":"))
if "log_path" in _options:
    ctypes.CDLL("libubsan.so.1").__sanitizer_set_report_path(_options["log_path"].encode())
