"""Films on a cluster of three raylets. Needs the extra `ray`, the command `soragen`, and a build with the feature `testing`."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import unittest
from pathlib import Path

import numpy as np
import psutil
from safetensors.numpy import load_file

import ray
import soragen
from ray.cluster_utils import Cluster
from soragen import command
from soragen.ray import film
from support import CAUSAL, CLIP, FILM, SMALL, copied, folder

SCENES = 12
# Seconds of a denoising step of the slow model. It waits, and does not compute.
DELAY = 0.25


def frames(file: Path) -> np.ndarray:
    return load_file(file)["frames"]


def rendered(test: unittest.TestCase, model: Path, *options: str) -> np.ndarray:
    """The film, made by the command alone."""
    out = folder(test) / "film.safetensors"
    line = [command.executable(), "render", "--storyboard", FILM, "-o", str(out), "--model", str(model), "--cache-dir", "none"]
    subprocess.run([*line, *options], check=True, capture_output=True)
    return frames(out)


class OnACluster(unittest.TestCase):
    def setUp(self) -> None:
        self.slow = copied(self, CAUSAL)
        # Raylets inherit it.
        os.environ["SORAGEN_STEP_DELAY"] = f"{self.slow}={DELAY}"
        self.addCleanup(os.environ.pop, "SORAGEN_STEP_DELAY")
        self.cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        self.addCleanup(self.cluster.shutdown)
        self.nodes = [self.cluster.add_node(num_cpus=1) for _ in range(2)]
        self.cluster.wait_for_nodes()
        self.cache = folder(self)
        self.out = folder(self) / "film.safetensors"

    def film(self, model: Path, **more):
        return film(FILM, self.out, self.cluster.address, model=str(model), cpus=1, cache_dir=self.cache, quiet=True, **more)

    def when(self, scenes: int, act) -> threading.Thread:
        """Calls `act` when the cache has so many scenes."""
        each = len(soragen.Model.open(CAUSAL).film_entries(soragen.Request.of_storyboard(soragen.Storyboard.open(FILM)))[0])

        def watch() -> None:
            while soragen.cache_usage(self.cache)[0] < scenes * each:
                time.sleep(0.02)
            act()

        watching = threading.Thread(target=watch, daemon=True)
        watching.start()
        return watching

    def test_frames_equal_those_of_one_machine(self) -> None:
        for model in (CAUSAL, CLIP):
            with self.subTest(model.name):
                report = self.film(model, **SMALL[model])
                self.assertEqual((report.scenes, report.made, report.lost), (SCENES, SCENES, 0))
                options = ("--size=32x32", "--steps=2") if model == CLIP else ()
                np.testing.assert_array_equal(frames(self.out), rendered(self, model, *options))
                # It goes on from the cache.
                self.assertEqual(self.film(model, **SMALL[model]).made, 0)

    def test_a_node_that_is_lost_costs_only_its_scenes(self) -> None:
        killing = self.when(2, lambda: self.cluster.remove_node(self.nodes[0], allow_graceful=False))
        report = self.film(self.slow)
        killing.join(60)
        self.assertEqual(report.scenes, SCENES)
        self.assertIn(report.lost, (1, 2))
        np.testing.assert_array_equal(frames(self.out), rendered(self, CAUSAL))

    def test_a_worker_that_is_killed_costs_only_its_scene(self) -> None:
        def kill() -> None:
            names = ((process, " ".join(process.cmdline())) for process in psutil.Process().children(recursive=True))
            next(process for process, name in names if name.startswith("ray::Worker.make")).kill()

        killing = self.when(2, kill)
        report = self.film(self.slow)
        killing.join(60)
        self.assertEqual((report.scenes, report.lost), (SCENES, 1))
        np.testing.assert_array_equal(frames(self.out), rendered(self, CAUSAL))

    def test_a_driver_that_is_killed_goes_on(self) -> None:
        line = [sys.executable, "-m", "soragen.ray", FILM, "-o", str(self.out), "--address", self.cluster.address, "--model", str(self.slow)]
        line += ["--cpus", "1", "--cache-dir", str(self.cache), "--quiet"]
        with subprocess.Popen(line, stderr=subprocess.PIPE, text=True) as running:
            self.when(4, running.kill).join(120)
            running.wait(60)
        finished = soragen.cache_usage(self.cache)[0]
        again = subprocess.run(line, capture_output=True, text=True, check=True)
        made = int(again.stderr.split(": ")[-1].split()[0])
        each = soragen.cache_usage(self.cache)[0] // SCENES
        self.assertEqual(made, SCENES - finished // each, again.stderr)
        np.testing.assert_array_equal(frames(self.out), rendered(self, CAUSAL))

    def test_a_refused_prompt_and_a_missing_model_are_told(self) -> None:
        with self.assertRaises(soragen.PromptRefused):
            film("0:00 child pornography | 0:01", None, self.cluster.address, model=str(CAUSAL), cpus=1, cache_dir=self.cache, quiet=True)
        with self.assertRaises(soragen.NotFound):
            film(FILM, None, self.cluster.address, model="no/such/model", cpus=1, cache_dir=self.cache, quiet=True)


class OnThisMachine(unittest.TestCase):
    def test_four_workers_are_more_than_three_times_as_fast(self) -> None:
        slow = copied(self, CAUSAL)
        os.environ["SORAGEN_STEP_DELAY"] = f"{slow}={DELAY}"
        self.addCleanup(os.environ.pop, "SORAGEN_STEP_DELAY")
        ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False)
        self.addCleanup(ray.shutdown)
        seconds = [
            film(FILM, None, model=str(slow), workers=workers, cpus=1, cache_dir=folder(self), quiet=True).seconds for workers in (1, 4)
        ]
        print(f"12 scenes: {seconds[0]:.2f} s with one worker, {seconds[1]:.2f} s with four: {seconds[0] / seconds[1]:.2f} times as fast")
        self.assertGreater(seconds[0] / seconds[1], 3.4)


if __name__ == "__main__":
    unittest.main()
