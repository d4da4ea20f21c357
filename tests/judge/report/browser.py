"""A page in headless Chromium, inside another page: measured, and as a picture."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None
)
DARK, LIGHT = 0, 1
"""Blink's numbers of the colour schemes that a reader may prefer."""
MEASURE = """
addEventListener("load", () => {
  const page = document.querySelector("iframe").contentDocument, view = page.defaultView;
  const colour = (one, name) => view.getComputedStyle(one).getPropertyValue(name);
  const texts = [...page.querySelectorAll(
    "h1, h2, p, dt, dd, td, th, .right, .wrong, .soft, .said, svg text")];
  const backdrop = one => { for (; one; one = one.parentElement) {
    const found = colour(one, "background-color"); if (!/, 0\\)$/.test(found)) return found; } };
  const cut = [...page.querySelectorAll("body *")].filter(one => !one.closest("svg, .wide-table") &&
    one.getBoundingClientRect().right > page.documentElement.clientWidth + 1);
  const svgs = [...page.querySelectorAll("figure > svg")].filter(one => colour(one, "display") != "none");
  document.body.dataset.measured = JSON.stringify({
    width: page.documentElement.clientWidth, scroll: page.documentElement.scrollWidth,
    beyond: cut.map(one => one.outerHTML.slice(0, 80)),
    fetched: view.performance.getEntriesByType("resource").map(one => one.name),
    scripts: page.scripts.length,
    colours: [...new Set(texts.map(one => JSON.stringify(
      [one.ownerSVGElement ? colour(one, "fill") : colour(one, "color"), backdrop(one)])))].map(JSON.parse),
    shown: [...new Set(svgs.map(one => one.getAttribute("class")))],
    font: Math.min(...svgs.map(one => 12.5 * one.getBoundingClientRect().width / one.viewBox.baseVal.width)),
  });
});
"""


def _chromium(folder: Path, page: str, width: int, height: int, scheme: int, *options: str) -> str:
    frame = (
        f'<iframe style="border:0;width:{width}px;height:{height}px" srcdoc="{html.escape(page)}"></iframe>'
    )
    file = folder / "frame.html"
    file.write_text(
        f'<!DOCTYPE html><meta charset="utf-8"><script>{MEASURE}</script><body style="margin:0">{frame}',
        encoding="utf-8",
    )
    done = subprocess.run(
        [
            CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
            "--disable-dev-shm-usage", "--force-device-scale-factor=1",
            f"--user-data-dir={folder / 'profile'}",
            f"--blink-settings=preferredColorScheme={scheme}", f"--window-size={max(width, 500)},{height}",
            "--virtual-time-budget=3000", *options, file.as_uri(),
        ],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def measured(folder: Path, page: str, width: int, scheme: int) -> dict:
    """What the browser makes of a page: see MEASURE."""
    found = re.search(r'data-measured="([^"]*)"', _chromium(folder, page, width, 1000, scheme, "--dump-dom"))
    assert found is not None, "the page did not load"
    return json.loads(html.unescape(found[1]))


def picture(folder: Path, page: str, width: int, height: int, scheme: int) -> Path:
    """The top of the page as a PNG."""
    file = folder / f"{width}-{'dark' if scheme == DARK else 'light'}.png"
    _chromium(folder, page, width, height, scheme, f"--screenshot={file}")
    return file


def contrast(one: str, other: str) -> float:
    """The contrast ratio of two colours, as `rgb(r, g, b)`, by WCAG 2.2: 1 to 21."""

    def luminance(colour: str) -> float:
        parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)
