"""The service, with OpenAI's own SDK and schemathesis. Needs the extras `serve` and `test`, and a build with the feature `testing`."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import unittest
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import openai
import psutil
from PIL import Image

from support import CAUSAL, copied, folder

TOKEN = "a token of the tests"
warnings.simplefilter("ignore", DeprecationWarning)  # the SDK's, of the videos


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


class Service:
    """A running service. It has the model `small`, and the model `slow` that waits in each step."""

    def __init__(self, test: unittest.TestCase, delay: float = 0.0, jobs: Path | None = None, settings: str = "") -> None:
        self.jobs = jobs or folder(test) / "jobs"
        self.slow = copied(test, CAUSAL)
        self.port = free_port()
        config = folder(test) / "serve.toml"
        config.write_text(
            f'folder = "{self.jobs}"\ndefault = "small"\nunknown = "small"\ntokens = ["{TOKEN}"]\n{settings}\n'
            f'[models.small]\nsource = "{CAUSAL}"\noptions = {{ threads = 1 }}\nnum_cpus = 0.5\n'
            f'[models.slow]\nsource = "{self.slow}"\noptions = {{ threads = 1 }}\nnum_cpus = 0.5\n'
        )
        self.line = [sys.executable, "-m", "soragen.serve", "--port", str(self.port), "--config", str(config)]
        self.environment = os.environ | {"SORAGEN_STEP_DELAY": f"{self.slow}={delay}"}
        self.client = openai.OpenAI(base_url=f"http://127.0.0.1:{self.port}/v1", api_key=TOKEN, max_retries=0)
        test.addCleanup(self.stop)
        self.start()

    def start(self) -> None:
        self.running = subprocess.Popen(self.line, env=self.environment, stdout=subprocess.PIPE, text=True, start_new_session=True)
        ready = self.running.stdout.readline()
        if "/v1/videos" not in ready:
            raise RuntimeError(f"the service did not start: {ready}")

    def kill(self) -> None:
        """As a power failure: every process of the service, Ray's too."""
        processes = [psutil.Process(self.running.pid)]
        processes += processes[0].children(recursive=True)
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.running.wait()
        psutil.wait_procs(processes)

    def stop(self) -> None:
        if self.running.poll() is None:
            self.running.send_signal(signal.SIGTERM)
            try:
                self.running.wait(60)
            except subprocess.TimeoutExpired:
                self.kill()
        self.running.stdout.close()


class WithTheSdk(unittest.TestCase):
    @classmethod
    def setUpClass(cls) -> None:
        cls.service = Service(cls)
        cls.videos = cls.service.client.videos

    @classmethod
    def addCleanup(cls, *args, **kwargs):
        # `Service` cleans up after the class.
        return cls.addClassCleanup(*args, **kwargs)

    def test_a_video_is_created_listed_downloaded_and_deleted(self) -> None:
        video = self.videos.create_and_poll(prompt="a fox", model="sora-2", seconds="4", size="1280x720", poll_interval_ms=100)
        self.assertEqual((video.status, video.progress, video.object), ("completed", 100, "video"), video)
        self.assertEqual((video.model, video.seconds, video.size, video.prompt), ("small", "4", "48x16", "a fox"))
        self.assertGreaterEqual(video.completed_at, video.created_at)
        self.assertEqual(self.videos.retrieve(video.id), video)
        content = self.videos.download_content(video.id)
        data = content.read()
        self.assertEqual(data[4:8], b"ftyp")
        self.assertEqual(content.response.headers["content-type"], "video/mp4")
        for variant, kind in (("thumbnail", "WEBP"), ("spritesheet", "JPEG")):
            picture = Image.open(io.BytesIO(self.videos.download_content(video.id, variant=variant).read()))
            self.assertEqual(picture.format, kind)
        more = [self.videos.create(prompt=f"a fox {i}", seconds="1").id for i in range(3)]
        newest = [each.id for each in self.videos.list(limit=2)][:4]
        self.assertEqual(newest, [*reversed(more), video.id])
        oldest = self.videos.list(order="asc", limit=100).data
        self.assertEqual([each.id for each in oldest][-3:], more)
        deleted = self.videos.delete(video.id)
        self.assertTrue(deleted.deleted)
        with self.assertRaises(openai.NotFoundError):
            self.videos.retrieve(video.id)

    def test_the_file_says_that_it_is_generated(self) -> None:
        video = self.videos.create_and_poll(prompt="a fox", seconds="3", poll_interval_ms=100)
        file = folder(self) / "video.mp4"
        self.videos.download_content(video.id).write_to_file(file)
        probed = subprocess.run(["gst-discoverer-1.0", str(file)], capture_output=True, text=True).stdout
        self.assertIn("soragen", probed)

    def test_a_picture_is_the_start(self) -> None:
        picture = io.BytesIO()
        Image.new("RGB", (96, 32), (200, 40, 40)).save(picture, "PNG")
        video = self.videos.create(prompt="a fox", seconds="1", input_reference=("start.png", picture.getvalue(), "image/png"))
        self.assertEqual(self.videos.poll(video.id, poll_interval_ms=100).status, "completed")
        with self.assertRaises(openai.BadRequestError) as raised:
            self.videos.create(prompt="a fox", input_reference=("start.png", b"no picture", "image/png"))
        self.assertEqual(raised.exception.param, "input_reference")

    def test_a_remix_is_a_new_video(self) -> None:
        video = self.videos.create_and_poll(prompt="a fox", seconds="1", poll_interval_ms=100)
        remix = self.videos.remix(video.id, prompt="an owl")
        self.assertEqual((remix.remixed_from_video_id, remix.prompt), (video.id, "an owl"))
        self.assertEqual(self.videos.poll(remix.id, poll_interval_ms=100).status, "completed")
        one, other = (self.videos.download_content(each).read() for each in (video.id, remix.id))
        self.assertNotEqual(one, other)

    def test_errors_are_those_of_the_sdk(self) -> None:
        for settings, param in (
            ({"prompt": ""}, "prompt"), ({"prompt": "x" * 3000}, "prompt"), ({"seconds": "-4"}, "seconds"), ({"seconds": "1e9"}, "seconds"),
            ({"size": "wide"}, "size"), ({"size": "0x0"}, "size"), ({"extra_body": {"seed": "--5"}}, "seed"),
        ):
            with self.assertRaises(openai.BadRequestError) as raised:
                self.videos.create(**{"prompt": "a fox", **settings})
            self.assertEqual(raised.exception.param, param)
        with self.assertRaises(openai.BadRequestError) as raised:
            self.videos.create(prompt="child pornography")
        self.assertEqual(raised.exception.code, "moderation_blocked")
        for call in (self.videos.retrieve, self.videos.delete, self.videos.download_content):
            with self.assertRaises(openai.NotFoundError):
                call("video_0")
        stranger = openai.OpenAI(base_url=self.service.client.base_url, api_key="another", max_retries=0)
        with self.assertRaises(openai.AuthenticationError):
            stranger.videos.list()
        unfinished = self.videos.create(prompt="a fox", model="slow", seconds="60")
        with self.assertRaises(openai.BadRequestError):
            self.videos.download_content(unfinished.id)
        self.assertTrue(self.videos.delete(unfinished.id).deleted)

    def test_health_and_metrics_need_no_token(self) -> None:
        address = f"http://127.0.0.1:{self.service.port}"
        self.assertEqual(httpx.get(f"{address}/healthz").json()["status"], "ok")
        self.assertIn('soragen_jobs{status="completed"}', httpx.get(f"{address}/metrics").text)

    def test_no_request_makes_the_service_fail(self) -> None:
        line = [
            str(Path(sys.executable).parent / "schemathesis"), "run", f"http://127.0.0.1:{self.service.port}/openapi.json",
            "--header", f"Authorization: Bearer {TOKEN}", "--checks", "not_a_server_error", "--max-examples", "30", "--workers", "1",
            "--seed", "1", "--suppress-health-check", "all",
        ]
        done = subprocess.run(line, capture_output=True, text=True, cwd=folder(self))
        self.assertEqual(done.returncode, 0, done.stdout[-4000:])


class Surviving(unittest.TestCase):
    def test_jobs_survive_the_death_of_the_service(self) -> None:
        service = Service(self, delay=0.1)
        videos = service.client.videos
        finished = videos.create_and_poll(prompt="a fox", model="small", seconds="1", poll_interval_ms=100)
        running = [videos.create(prompt=f"an owl {i}", model="slow", seconds="1").id for i in range(3)]
        while videos.retrieve(running[0]).status == "queued":
            time.sleep(0.05)
        service.kill()
        service.start()
        self.assertEqual(videos.retrieve(finished.id), finished)
        self.assertEqual(videos.download_content(finished.id).read()[4:8], b"ftyp")
        for video in running:
            self.assertEqual(videos.poll(video, poll_interval_ms=100).status, "completed")

    def test_two_hundred_jobs_at_once_all_end_and_none_twice(self) -> None:
        service = Service(self)

        def client(number: int) -> list[str]:
            own = openai.OpenAI(base_url=service.client.base_url, api_key=TOKEN, max_retries=0)
            made = [own.videos.create(prompt=f"a fox {number} {i}", seconds="0.1") for i in range(10)]
            return [own.videos.poll(video.id, poll_interval_ms=500).status for video in made]

        begin = time.monotonic()
        with ThreadPoolExecutor(20) as clients:
            ends = [status for some in clients.map(client, range(20)) for status in some]
        print(f"200 jobs of 20 clients in {time.monotonic() - begin:.1f} s")
        self.assertEqual(ends, ["completed"] * 200)
        with sqlite3.connect(service.jobs / "jobs.sqlite") as table:
            attempts = table.execute("SELECT attempts, count(*) FROM jobs GROUP BY attempts").fetchall()
        self.assertEqual(attempts, [(1, 200)])

    def test_a_full_disk_fails_jobs_and_not_the_service(self) -> None:
        disk = folder(self) / "disk"
        disk.mkdir()
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], capture_output=True)
        if mounted.returncode != 0:
            self.skipTest("a small file system needs root")
        self.addCleanup(subprocess.run, ["umount", "-l", str(disk)])
        service = Service(self, jobs=disk / "jobs", settings="[limits]\nfree_bytes = 0\n")
        videos = service.client.videos
        (disk / "filler").write_bytes(b"\0" * 700_000)
        full = [videos.create(prompt=f"a fox {i}", seconds="6") for i in range(2)]
        ends = [videos.poll(video.id, poll_interval_ms=100) for video in full]
        self.assertTrue(any(video.status == "failed" for video in ends), ends)
        failed = next(video for video in ends if video.status == "failed")
        self.assertTrue(failed.error.message)
        (disk / "filler").unlink()
        self.assertEqual(videos.create_and_poll(prompt="a fox", seconds="1", poll_interval_ms=100).status, "completed")


if __name__ == "__main__":
    unittest.main()
