"""The files of a finished job: the video, a picture of it, and a sheet of pictures."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from PIL import Image

from soragen.command import run_async
from soragen.errors import GenerationError

SHEET = (5, 5)  # columns and rows
CELL = 320  # largest width of a picture in the sheet


async def pictures(video: Path, seconds: float, folder: Path) -> None:
    """Writes `thumbnail.webp` and `spritesheet.jpg` of a video into `folder`."""
    cells = SHEET[0] * SHEET[1]
    with tempfile.TemporaryDirectory(dir=folder) as some:
        rate = max(1, round(cells / max(seconds, 0.1)))
        await run_async([
            "gst-launch-1.0", "-q", "filesrc", f"location={video}", "!", "decodebin", "!", "videoconvert", "!", "videorate", "!",
            f"video/x-raw,framerate={rate}/1", "!", "jpegenc", "quality=90", "!", "multifilesink", f"location={some}/%05d.jpg",
        ])
        await asyncio.to_thread(_write, sorted(Path(some).glob("*.jpg")), folder)


def _write(files: list[Path], folder: Path) -> None:
    if not files:
        raise GenerationError("the video has no picture")
    with Image.open(files[0]) as first:
        first.save(folder / "thumbnail.webp", quality=85)
        width, height = first.size
    scale = min(1.0, CELL / width)
    cell = (max(1, round(width * scale)), max(1, round(height * scale)))
    columns = SHEET[0]
    count = min(len(files), SHEET[0] * SHEET[1])
    sheet = Image.new("RGB", (columns * cell[0], -(-count // columns) * cell[1]))
    for i in range(count):
        with Image.open(files[i * len(files) // count]) as picture:
            sheet.paste(picture.resize(cell), (i % columns * cell[0], i // columns * cell[1]))
    sheet.save(folder / "spritesheet.jpg", quality=85)
