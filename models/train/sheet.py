"""Draws frames as a contact sheet."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw


def sheet(path: Path, rows: list[np.ndarray], titles: list[str], scale: float = 0.5) -> None:
    """Draws one row per video, f32 or uint8 [T, H, W, 3], with its title above."""
    height, width = rows[0].shape[1:3]
    w, h, margin = int(width * scale), int(height * scale), 14
    image = Image.new("RGB", (max(len(r) for r in rows) * w, len(rows) * (h + margin)), "white")
    draw = ImageDraw.Draw(image)
    for i, (row, title) in enumerate(zip(rows, titles)):
        draw.text((2, i * (h + margin) + 1), title, fill="black")
        for j, frame in enumerate(row):
            if frame.dtype != np.uint8:
                frame = (np.clip(frame, 0, 1) * 255).round().astype(np.uint8)
            image.paste(Image.fromarray(frame).resize((w, h)), (j * w, i * (h + margin) + margin))
    image.save(path)
