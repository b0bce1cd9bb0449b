"""`python -m vendor.upgrade`."""

import sys

from vendor.upgrade.command import main

sys.exit(main())
