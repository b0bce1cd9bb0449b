"""Print the CPU variants that a quick build for this machine needs: `python -m vendor.build.quick_variants`.

Prints an empty line if the cache has a build with all variants.
"""

from __future__ import annotations

import sys

from vendor.build import native, variants
from vendor.source import fetch
from vendor.tools import BuildError, FetchError


def main() -> int:
    try:
        print("" if native.plan().lib.is_dir() else ",".join(variants.for_this_machine(fetch.source_dir())))
    except (BuildError, FetchError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
