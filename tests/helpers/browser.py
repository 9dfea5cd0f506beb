"""A browser that looks at a page: how wide it is, and what it complains of."""

import html
import json
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

FLAGS = """--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --hide-scrollbars
--disable-background-networking --disable-component-update --disable-sync
--enable-logging=stderr --v=0""".split()

# the page stands in a frame of each width, where a script of its own could not run
WRAPPER = """<!DOCTYPE html><meta charset="utf-8"><title>looking</title>
<style>body{{margin:0}}iframe{{border:0;display:block}}</style>{frames}<pre id=found></pre>
<script>addEventListener("load", () => {{
  const found = [...document.querySelectorAll("iframe")].map(frame => {{
    const page = frame.contentDocument, root = page.documentElement
    frame.height = root.scrollHeight
    const seen = [...page.querySelectorAll("math")].map(x => x.getBoundingClientRect())
    return {{width: frame.clientWidth, scroll: root.scrollWidth, height: root.scrollHeight,
      verdict: page.querySelector(".verdict")?.textContent ?? null,
      color: page.querySelector(".verdict") ?
        getComputedStyle(page.querySelector(".verdict")).color : null,
      math: seen.length, flat: seen.filter(r => r.width > 0 && r.height < 4).length,
      broken: [...page.images].filter(x => !x.complete || x.naturalWidth == 0).length}}
  }})
  document.getElementById("found").textContent = JSON.stringify(found)
}})</script>"""


def look(page, widths=(1280, 390), screenshot=None):
    """Return what is seen of a page at each width, and the lines of the browser's console.

    Args:
        page: HTML.
        widths: of the window, in pixels.
        screenshot: folder for ``WIDTH.png``; the whole page.
    """
    with tempfile.TemporaryDirectory() as folder:
        run = [CHROMIUM, *FLAGS, f"--user-data-dir={folder}/profile"]
        path = Path(folder, "looking.html")
        frames = "".join(f'<iframe width={w} srcdoc="{html.escape(page)}"></iframe>' for w in widths)
        path.write_text(WRAPPER.format(frames=frames), encoding="utf-8")
        done = subprocess.run(
            [*run, "--dump-dom", path.as_uri()], capture_output=True, text=True, timeout=120
        )
        found = json.loads(html.unescape(re.search("<pre id=.found.>(.*?)</pre>", done.stdout)[1]))
        console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
        for one in found if screenshot else ():
            frame = f'<iframe width={one["width"]} height={one["height"]} srcdoc="{html.escape(page)}">'
            path.write_text(f"<!DOCTYPE html><style>body{{margin:0}}iframe{{border:0}}</style>{frame}")
            shot = Path(screenshot, f"{one['width']}.png").resolve()
            size = f"--window-size={max(one['width'], 500)},{one['height']}"
            subprocess.run([*run, f"--screenshot={shot}", size, path.as_uri()], timeout=120, capture_output=True)
    return {one["width"]: one for one in found}, console
