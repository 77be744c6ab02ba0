"""Open pages in a headless browser, if one is installed."""

import html
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
# without network requests
_ALONE = ("--disable-quic", "--disable-background-networking", "--disable-component-update", "--disable-sync")
_WIDTHS = (380, 768, 1400)
# the page is loaded into a frame of each width, so that its media queries apply to that width
_HARNESS = """<!doctype html><meta charset="utf-8"><pre id="measured"></pre>
<script>
const page = PAGE, found = {};
function measured(frame, width) {
  const shown = frame.contentDocument, beyond = [];
  for (const run of shown.querySelectorAll("details")) run.open = true;
  for (const element of shown.body.querySelectorAll("*")) {
    const box = element.getBoundingClientRect();
    if (box.right > width + 0.5 && !element.closest(".scroll")) beyond.push(element.tagName + ": " + element.className);
  }
  const height = shown.body.scrollHeight, scroll = shown.documentElement.scrollWidth;
  const hidden = [...shown.querySelectorAll(".scroll")].filter(box => box.scrollWidth > box.clientWidth + 1);
  const paper = getComputedStyle(shown.body).backgroundColor;
  return {scroll, beyond: beyond.slice(0, 5), hidden: hidden.map(box => box.innerText.slice(0, 80)), height, paper};
}
for (const width of WIDTHS) {
  const frame = document.createElement("iframe");
  frame.style = `width: ${width}px; height: 900px; border: 0`;
  frame.onload = () => {
    found[width] = measured(frame, width);
    document.getElementById("measured").textContent = JSON.stringify(found);
  };
  frame.srcdoc = page;
  document.body.append(frame);
}
</script>"""


def chromium() -> str:
    """The command of the browser; without one, the calling test is skipped."""
    named = os.environ.get("CHROMIUM")
    found = named or next((path for name in _NAMES if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip(f"there is no browser here: none of {', '.join(_NAMES)} on the PATH, and CHROMIUM names none")
    return found


def opened(page: Path, folder: Path, *, dark: bool = False) -> tuple[dict[str, Any], list[str]]:
    """What was measured of the page at each width, and what the browser's console printed."""
    scheme = f"--blink-settings=preferredColorScheme={0 if dark else 1}"
    content = json.dumps(page.read_text(encoding="utf-8")).replace("</", "<\\/")
    harness = folder / "harness.html"
    harness.write_text(_HARNESS.replace("WIDTHS", json.dumps(_WIDTHS)).replace("PAGE", content, 1), encoding="utf-8")
    dumped, console = _browse(harness, folder, "--dump-dom", scheme)
    _, alone = _browse(page, folder, "--dump-dom", scheme)
    match = re.search(r'<pre id="measured">(.*?)</pre>', dumped, re.DOTALL)
    assert match, dumped[-2000:]
    return json.loads(html.unescape(match[1])), [line for line in (*console, *alone) if "CONSOLE" in line]


def _browse(file: Path, folder: Path, *flags: str) -> tuple[str, list[str]]:
    quiet = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--window-size=1500,2000", *_ALONE)
    options = ("--enable-logging=stderr", "--virtual-time-budget=5000", f"--user-data-dir={folder / 'profile'}")
    done = subprocess.run(
        [chromium(), *quiet, *options, *flags, file.resolve().as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return done.stdout, done.stderr.splitlines()
