"""Moving shapes, colours and gradients that mean nothing, so that the autoencoder keeps pictures of any kind."""

from __future__ import annotations

import cv2
import numpy as np

from scenes import HEIGHT, WIDTH, Rng


class Texture:
    """Draws its frames one by one, as a clip does."""

    def __init__(self, rng: Rng) -> None:
        grid = rng.uniform(0, 1, (int(rng.integers(2, 24)), int(rng.integers(2, 32)), 3)).astype(np.float32)
        self.ground = cv2.resize(grid, (2 * WIDTH, 2 * HEIGHT), interpolation=cv2.INTER_CUBIC).clip(0, 1)
        grain = rng.normal(0, rng.uniform(0, 0.05), self.ground.shape)
        self.ground = (self.ground + grain.astype(np.float32)).clip(0, 1)
        self.velocity = rng.uniform(-60, 60, 2)
        count = int(rng.integers(0, 9))
        self.place = rng.uniform(0, 1, (count, 2)) * (WIDTH, HEIGHT)
        self.speed = rng.uniform(-80, 80, (count, 2))
        self.colour = rng.uniform(0, 1, (count, 3))
        self.corners = [rng.normal(0, rng.uniform(8, 40), (int(rng.integers(3, 8)), 2)) for _ in range(count)]

    def frame(self, t: float) -> np.ndarray:
        dx, dy = self.velocity * t
        shift = np.float32([[1, 0, -(dx % WIDTH)], [0, 1, -(dy % HEIGHT)]])
        view = cv2.warpAffine(self.ground, shift, (WIDTH, HEIGHT), borderMode=cv2.BORDER_REFLECT)
        for place, speed, colour, corners in zip(self.place, self.speed, self.colour, self.corners):
            points = np.int32((corners + (place + speed * t) % (WIDTH, HEIGHT)) * 8)
            cv2.fillPoly(view, [points], tuple(map(float, colour)), cv2.LINE_AA, 3)
        return view
