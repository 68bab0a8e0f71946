"""Draw what a run printed as a terminal picture: ``make_picture.py [demo.txt [demo.svg]]``.

The text is the real output, taken with

    (echo '$ swarmtune optimizer'; COLUMNS=112 .venv/bin/swarmtune optimizer 2>&1) > docs/assets/demo.txt

Folders of the machine that it ran on are shortened to .venv/; nothing else is changed.
"""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

HERE = Path(__file__).parent
WIDTH = 112  # columns
STYLES = (
    (r"^\$ .*$", "bold bright_white"),
    (r"<- best so far", "bold green"),
    (r"cannot run:", "bold red"),
    (r"\(ETA [^)]*\)", "bright_black"),
    (r"^(The winner is better|No significant gain).*$", "bold green"),
    (r"^Run the (winner|baseline):$", "bold"),
    (r"^ +baseline +(winner|best found) +difference.*$", "bold"),
    (r"\bchanged\b", "yellow"),
    (r"\bbroken\b", "red"),
    (r"\bkept\b", "green"),
)


def picture(text: str) -> str:
    """The SVG of this terminal text."""
    shortened = re.sub(r"(?<=[\s'])/\S*?/\.venv/", ".venv/", f" {text}")[1:]
    console = Console(record=True, width=WIDTH, file=io.StringIO())
    for line in shortened.splitlines():
        drawn = Text(line)
        for pattern, style in STYLES:
            drawn.highlight_regex(pattern, style)
        console.print(drawn)
    drawing = console.export_svg(title="SwarmTune", unique_id="demo")
    drawing = re.sub(r"@font-face \{.*?\}\s*", "", drawing, flags=re.DOTALL)  # the picture asks no server for fonts
    return "\n".join(line.rstrip() for line in drawing.splitlines()) + "\n"


def main(argv: list[str]) -> None:
    """Read the text, write the picture."""
    source = Path(argv[0]) if argv else HERE / "demo.txt"
    target = Path(argv[1]) if len(argv) > 1 else HERE / "demo.svg"
    target.write_text(picture(source.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
