"""A browser that looks at a page: how wide it is, and what it complains of."""

import html
import json
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --hide-scrollbars "
    "--disable-background-networking --disable-component-update --disable-sync "
    "--enable-logging=stderr --v=0"
)

WRAPPER = """<!DOCTYPE html><meta charset="utf-8"><title>looking</title>
<style>body{{margin:0}}iframe{{border:0;display:block}}</style>{frames}<pre id=found></pre>
<script>addEventListener("load", () => {{
  const found = [...document.querySelectorAll("iframe")].map(frame => {{
    const page = frame.contentDocument, root = page.documentElement
    const verdict = page.querySelector(".verdict"), math = [...page.querySelectorAll("math")]
    const tall = math.filter(x => {{
      const seen = x.getBoundingClientRect()
      return seen.width == 0 || seen.height > 4
    }})
    return {{width: frame.clientWidth, needed: root.scrollWidth, height: root.scrollHeight,
      verdict: verdict?.textContent ?? null, math: math.length, flat: math.length - tall.length,
      color: verdict ? getComputedStyle(verdict).color : null,
      broken: [...page.images].filter(x => x.naturalWidth == 0).length}}
  }})
  document.getElementById("found").textContent = JSON.stringify(found)
}})</script>"""
"""The page stands in a frame of each width; it may run no script, and this one looks in."""


def look(page, widths=(1280, 390), screenshots=None):
    """Return what is seen of a page at each width, and what the browser's console says.

    Args:
        page: HTML.
        widths: of the window, in pixels.
        screenshots: folder for ``WIDTH.png``, each of the whole page.
    """
    with tempfile.TemporaryDirectory() as folder:
        run = [CHROMIUM, *FLAGS.split(), f"--user-data-dir={folder}/profile"]
        path = Path(folder, "looking.html")
        inside = f'srcdoc="{html.escape(page)}"></iframe>'
        frames = "".join(f"<iframe width={width} {inside}" for width in widths)
        path.write_text(WRAPPER.format(frames=frames), encoding="utf-8")
        command = [*run, "--dump-dom", path.as_uri()]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        (found,) = re.findall('<pre id="found">(.*?)</pre>', done.stdout)
        seen = {one["width"]: one for one in json.loads(html.unescape(found))}
        console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
        for width, one in seen.items() if screenshots else ():
            frame = f"<iframe width={width} height={one['height']} {inside}"
            style = "<style>body{margin:0}iframe{border:0}</style>"
            path.write_text(f"<!DOCTYPE html><meta charset=utf-8>{style}{frame}", encoding="utf-8")
            shot = Path(screenshots, f"{width}.png").resolve()
            size = f"--window-size={max(width, 500)},{one['height']}"
            command = [*run, f"--screenshot={shot}", size, path.as_uri()]
            subprocess.run(command, capture_output=True, timeout=300)
    return seen, console
