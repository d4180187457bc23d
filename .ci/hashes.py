"""Print the lines of hashes.txt for the distributions of a `pip freeze`; fail if one lacks."""

import re
import sys
from pathlib import Path

text = Path(__file__).with_name("hashes.txt").read_text()
known = {part.split()[0].lower().replace("_", "-"): part for part in re.split(r"\n(?=\S)", text)}
for pin in Path(sys.argv[1]).read_text().split():
    print(known[pin.lower().replace("_", "-")])
