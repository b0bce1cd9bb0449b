"""The reports that the sanitizers wrote, whatever process made them."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

# The line that opens a report, up to what differs from one run to the next.
_OPENINGS = (
    re.compile(r"^(?P<what>\S+: runtime error: .*)"),
    re.compile(r"^==\d+==ERROR: (?P<what>AddressSanitizer: [\w-]+)"),
    re.compile(r"^WARNING: (?P<what>ThreadSanitizer: .*?) \(pid=\d+\)"),
)
_FRAME = re.compile(r"^\s+#\d+ 0x[0-9a-f]+ in (?P<where>.*)|^\s+#\d+ (?P<place>.*)")
_FOREIGN = re.compile(r" /usr/include/|/libsanitizer/|<null>")
_ACCIDENTS = re.compile(r"0x[0-9a-f]+|\(\S+\+0x.*\)|\S*/source/\w+/")


def read(folder: Path) -> list[str]:
    """One text for each report: its opening line and the first frames of its stack."""
    found: list[str] = []
    for path in sorted(folder.iterdir()):
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        for number, line in enumerate(lines):
            opening = next((match for match in (pattern.match(line) for pattern in _OPENINGS) if match), None)
            if opening is not None:
                found.append("\n      ".join([_plain(opening["what"]), *_frames(lines[number + 1 : number + 60])]))
    return found


def _frames(lines: list[str], most: int = 6) -> list[str]:
    """The first frames of the first stack that are not the library's or the runtime's."""
    frames: list[str] = []
    for line in lines:
        frame = _FRAME.match(line)
        if frame is not None and not _FOREIGN.search(line):
            frames.append(_plain(frame["where"] or frame["place"]))
        if len(frames) == most or (frames and not line.strip()):
            break
    return frames


def _plain(text: str) -> str:
    return _ACCIDENTS.sub("", text).rstrip()


def summary(found: list[str]) -> str:
    """Each different report once, the most frequent first."""
    return "\n".join(f"  {count} x {text}" for text, count in Counter(found).most_common())
