"""Write the row of a set of versions into README's table, after its tests have passed: `tested.py SET WHAT_WAS_RUN`."""

from __future__ import annotations

import platform
import re
import sys
from importlib.metadata import version
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"
BEGIN, END = "<!-- tested versions -->", "<!-- /tested versions -->"
LIBRARIES = ("transformers", "torch", "accelerate", "datasets", "huggingface_hub", "timm", "peft")
SETS = ("oldest", "today", "newest")


def main(name: str, run: str) -> None:
    """Renew one row; the others stay."""
    before, _, rest = README.read_text().partition(BEGIN)
    table, _, after = rest.partition(END)
    rows = {match[1]: match[0] for match in re.finditer(r"^\| (\w+) \|.*$", table, re.M) if match[1] in SETS}
    # Without the build's own mark (+cpu, +cu130).
    found = [version(library).partition("+")[0] for library in LIBRARIES]
    rows[name] = f"| {' | '.join([name, platform.python_version(), *found, run])} |"
    head = f"| | {' | '.join(['Python', *LIBRARIES, 'run'])} |\n|{'---|' * (len(LIBRARIES) + 3)}\n"
    lines = "\n".join(rows[each] for each in SETS if each in rows)
    README.write_text(f"{before}{BEGIN}\n\n{head}{lines}\n\n{END}{after}")


if __name__ == "__main__":
    main(*sys.argv[1:])
