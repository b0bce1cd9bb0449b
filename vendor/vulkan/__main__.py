"""`python -m vendor.vulkan`."""

import sys

from vendor.vulkan.vulkan import main

sys.exit(main())
