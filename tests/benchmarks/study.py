"""`python -m tests.benchmarks.study`: what is measured goes into the texts, so that text and tables cannot drift.

In docs/study.md and README.md, what stands between these two lines is the file's content, or the picture:

    <!-- from: study/tables/hippocampus/dsc-list.md -->
    <!-- from: study/tables/hippocampus/test-curve.png | what it shows -->
    <!-- end -->
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

from hpcseg.files import write_text

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
TEXTS = (ROOT / "README.md", DOCS / "study.md")
_PLACE = re.compile(r"(<!-- from: ([^\s|]+)(?: \| ([^\n]*?))? -->\n).*?(<!-- end -->)", re.DOTALL)


def main() -> int:
    """Fill both texts."""
    for path in TEXTS:
        write_text(path, filled(path.read_text(encoding="utf-8"), path.parent))
        print(path.relative_to(ROOT))
    return 0


def filled(text: str, folder: Path, docs: Path = DOCS) -> str:
    """A text of `folder` with every place filled from below `docs`; one whose file is not there yet is left empty."""

    def fill(place: re.Match[str]) -> str:
        source = docs / place[2]
        return f"{place[1]}{_shown(source, os.path.relpath(source, folder), place[3] or '')}{place[4]}"

    return _PLACE.sub(fill, text)


def _shown(source: Path, link: str, words: str) -> str:
    if not source.exists():
        return ""
    if source.suffix == ".png":
        return f"![{words}]({link})\n"
    body = re.sub(r"\A## .*\n+", "", source.read_text(encoding="utf-8"))  # the text has headings of its own
    return f"\n{body.strip()}\n\n"


if __name__ == "__main__":
    sys.exit(main())
