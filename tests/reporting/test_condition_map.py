"""The map of conditions in a real browser: it loads, shows the image that is pointed at, lights up, fetches nothing."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
from io import BytesIO
from pathlib import Path

import pytest
import torch
from PIL import Image

from vecaf_hf.conditions.condition import Condition
from vecaf_hf.reporting.condition_map import DATA, PER_ROW, SIDE, MapData, write_map

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
# Points at a sample, lights up a condition, moves the slider, and leaves what it saw in the page.
LOOK = """<script>
window.onerror = message => { document.body.dataset.error = message; };
Promise.all(sheets.map(sheet => sheet.decode())).then(() => {
  const i = WANTED, scale = map.clientWidth / map.width, box = map.getBoundingClientRect();
  const at = { clientX: box.x + left(i) * scale, clientY: box.y + top_(i) * scale, bubbles: true };
  map.dispatchEvent(new MouseEvent("mousemove", at));
  const pixel = get("image").getContext("2d").getImageData(16, 16, 1, 1).data;
  const seen = { tip: get("tip").dataset.index, words: get("words").textContent, pixel: [...pixel].slice(0, 3) };
  const before = map.toDataURL();
  document.querySelector("button").click();
  seen.lit = lit; seen.redrawn = before !== map.toDataURL(); seen.count = data.count;
  const slider = get("loop");
  slider.value = 1; slider.oninput();
  seen.loop = get("loops").textContent;
  const framed = map.toDataURL();
  const started = performance.now();
  draw();
  seen.fetched = performance.getEntriesByType("resource").filter(one => !one.name.startsWith("data:")).length;
  seen.same = framed === map.toDataURL();
  document.body.dataset.seen = JSON.stringify(seen);
});
</script>"""


def colour_of(index: int) -> tuple[int, int, int]:
    return index * 37 % 256, index * 91 % 256, index * 53 % 256


def data(count: int) -> MapData:
    generator = torch.Generator().manual_seed(0)
    condition = Condition(
        name="in <b>fog</b> & </script>",
        name_score=9.0,
        named_by="captions",
        captions=("a dress in fog",),
        members=tuple(range(5, 45)),
        accuracy=0.2,
        class_accuracy=0.9,
        loss=2.0,
        class_loss=0.3,
        classes={"dress": 40},
        found=1.0,
        by_loop=(0.1, None),
    )
    return MapData(
        indices=torch.arange(count),
        places=torch.randn(count, 2, generator=generator),
        losses=torch.rand(count, generator=generator),
        labels=torch.arange(count) % 3,
        predicted=torch.arange(count) % 2,
        conditions=[condition],
        selections=[torch.arange(0, count, 2), torch.arange(0, count, 3)],
        class_names=["dress", "coat", "</script>"],
        method="PCA",
        captions=[None if index % 2 else f"a caption of {index}" for index in range(count)],
    )


def written(folder: Path, count: int) -> Path:
    def image_of(index: int) -> Image.Image | None:
        return None if index == 3 else Image.new("RGB", (40, 30), colour_of(index))

    return write_map(data(count), image_of, folder / "map.html")


def content(page: str) -> dict[str, object]:
    return json.loads(re.search(r"const data = (.*);\n", page)[1])  # type: ignore[index]


def test_the_file_holds_all_that_it_shows(tmp_path: Path) -> None:
    page = written(tmp_path, 100).read_text()
    held = content(page)
    assert DATA not in page and page.count("</script>") == 1
    assert not re.search(r'(?:src|href)="(?!data:)|@import|url\(|fetch\(|https?://', page)
    assert held["count"] == 100 and held["conditions"][0]["byLoop"] == [0.1, None]  # type: ignore[index]
    sheet = held["sheets"][0]  # type: ignore[index]
    with Image.open(BytesIO(base64.b64decode(sheet))) as image:
        assert image.size == (SIDE * PER_ROW, SIDE * 2)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
@pytest.mark.parametrize("count", [100, 50_000])
def test_in_a_browser(count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    if count > 1000:
        # What takes a while to make is one image of many: the browser has as many samples all the same.
        monkeypatch.setattr("vecaf_hf.reporting.condition_map._sheets", lambda indices, image_of: [])
    page = written(tmp_path, count)
    wanted = 7
    page.write_text(page.read_text().replace("</body>", LOOK.replace("WANTED", str(wanted)) + "</body>"))
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=20000", "--enable-logging=stderr"]
    profile = f"--user-data-dir={tmp_path / 'profile'}"
    done = subprocess.run(
        [str(CHROMIUM), *flags, profile, "--dump-dom", page.as_uri()], capture_output=True, text=True, timeout=300
    )
    seen_text = re.search(r'data-seen="([^"]*)"', done.stdout)
    assert seen_text, (done.stderr[-2000:], done.stdout[-500:])
    seen = json.loads(seen_text[1].replace("&quot;", '"').replace("&lt;", "<").replace("&gt;", ">"))
    assert "data-error" not in done.stdout and "CONSOLE" not in done.stderr
    assert seen["fetched"] == 0 and seen["count"] == count
    assert seen["lit"] == 1 and seen["redrawn"] and seen["same"] and seen["loop"].endswith("loop 1")
    if count == 100:
        assert seen["tip"] == str(wanted)
        assert "is coat" in seen["words"] and "in fog" not in seen["words"].split("loss")[0]
        # A JPEG is not exact.
        assert all(abs(one - other) < 12 for one, other in zip(seen["pixel"], colour_of(wanted), strict=True))
