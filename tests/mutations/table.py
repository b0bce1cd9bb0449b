"""Every mutation, and what is expected of it."""

from __future__ import annotations

from tests.mutations.enums import ENUM_ROWS
from tests.mutations.functions import FUNCTION_ROWS
from tests.mutations.structs import STRUCT_ROWS
from tests.mutations.text import TEXT_ROWS
from tests.mutations.types import TYPE_ROWS

ROWS = (*STRUCT_ROWS, *FUNCTION_ROWS, *ENUM_ROWS, *TYPE_ROWS, *TEXT_ROWS)
MUTATIONS = {row.name: row for row in ROWS}
