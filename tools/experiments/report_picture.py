"""Make the picture of the docs from a report: its head, its scores and its first worst images, as Chromium shows them.

detector report runs/train-001 data/blood-cells --split test --out report.html
python tools/experiments/report_picture.py report.html docs/images/report.jpg
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
SHOWN = ("scores", "images")
WIDTH_HEIGHT = (1100, 1064)


def main() -> int:
    parser = argparse.ArgumentParser(description="Make the picture of the docs from a report.")
    parser.add_argument("report", type=Path)
    parser.add_argument("picture", type=Path)
    options = parser.parse_args()
    program = next((path for name in PROGRAMS if (path := shutil.which(name))), None)
    if program is None:
        sys.stderr.write(f"error: none of {', '.join(PROGRAMS)} is installed\n")
        return 1
    with tempfile.TemporaryDirectory() as folder:
        page, shot = Path(folder, "page.html"), Path(folder, "shot.png")
        page.write_text(excerpt(options.report.read_text(encoding="utf-8")), encoding="utf-8")
        flags = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            f"--user-data-dir={folder}/profile",
        ]
        size = f"--window-size={WIDTH_HEIGHT[0]},{WIDTH_HEIGHT[1]}"
        subprocess.run([program, *flags, size, f"--screenshot={shot}", page.as_uri()], check=True, capture_output=True)
        with Image.open(shot) as image:
            image.convert("RGB").save(options.picture, quality=88, optimize=True)
    return 0


def excerpt(content: str) -> str:
    """The page without its other parts, and without what stands below a table."""
    content = re.sub(
        r'<section id="(\w+)">.*?</section>', lambda m: m[0] if m[1] in SHOWN else "", content, flags=re.DOTALL
    )
    content = re.sub(r"<details.*?</details>", "", content, flags=re.DOTALL)
    scores = re.search(r'<section id="scores">.*?</section>', content, flags=re.DOTALL)
    if scores is None:
        raise SystemExit("error: this is no report")
    return content.replace(scores[0], re.sub(r"<p>.*?</p>", "", scores[0], flags=re.DOTALL))


if __name__ == "__main__":
    raise SystemExit(main())
