"""The package without Ray: frames, scenes, errors, cancelling. `make test` runs it."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import unittest

import numpy as np

import soragen
from soragen import _soragen
from support import CAUSAL, CLIP, FIXTURES, SMALL, copied, folder


class Frames(unittest.TestCase):
    def test_a_session_yields_the_frames_that_render_returns(self):
        model = soragen.Model.open(CAUSAL)
        told = []
        with model.session("a fox", frames=17, progress=told.append) as session:
            self.assertEqual((session.size, session.total_frames), (model.info.size, 17))
            chunks = list(session)
            self.assertGreater(session.stats.forwards, 0)
        width, height = model.info.size
        frames = np.concatenate(chunks)
        self.assertEqual((frames.shape, frames.dtype), ((17, height, width, 3), np.uint8))
        self.assertGreater(len(chunks), 1)
        np.testing.assert_array_equal(frames, soragen.render("a fox", model=CAUSAL, frames=17))
        self.assertTrue((frames != model.render("a fox", frames=17, seed=1)).any())
        self.assertEqual({progress.phase for progress in told}, {"text", "denoise", "decode"})
        self.assertEqual([progress.frame for progress in told], sorted(progress.frame for progress in told))

    def test_latents_go_in_and_come_out(self):
        model = soragen.Model.open(CLIP)
        settings = {"frames": 9, **SMALL[CLIP]}
        with model.session("a fox", **settings) as session:
            latents = session.next_latents()
            self.assertIsNone(session.next_latents())
        self.assertEqual((latents.ndim, latents.dtype), (4, np.float32))
        noise = np.random.default_rng(0).normal(size=latents.shape).astype(np.float32)
        one, other = (model.render("a fox", initial_latents=x, **settings) for x in (noise, noise[:, :, ::-1].copy()))
        self.assertTrue((one != other).any())
        with self.assertRaises(soragen.RequestError) as raised:
            model.session("a fox", initial_latents=noise[:, 1:], **settings)
        self.assertEqual(raised.exception.setting, "initial-latents")

    def test_a_storyboard_is_a_value(self):
        path = folder(self) / "film.toml"
        path.write_text('[[shot]]\nprompt = "a fox"\nduration = 1\n[[shot]]\nprompt = "an owl"\ntransition = "cut"\nseed = 7\nduration = 1\n')
        board = soragen.Storyboard.open(path)
        self.assertEqual([(shot.start, shot.prompt, shot.cut, shot.seed) for shot in board.shots], [(0, "a fox", False, None), (1, "an owl", True, 7)])
        self.assertEqual(board.end, 2)
        request = soragen.Request.of_storyboard(board, seed=3)
        self.assertEqual(pickle.loads(pickle.dumps(request)), request)
        inline = soragen.Storyboard.open("0:00 a fox | 0:01 (cut) an owl")
        self.assertEqual(inline.shots[1].prompt, "an owl")

    def test_a_packed_request_gives_the_same_frames(self):
        model = soragen.Model.open(CAUSAL)
        image = folder(self) / "image.png"
        try:
            from PIL import Image
        except ImportError:
            image.write_bytes((FIXTURES.parent.parent / "models" / "sheet.png").read_bytes())
        else:
            Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 48, 3), np.uint8)).save(image)
        request = soragen.Request(prompt="a fox", image=image, frames=9)
        packed = request.packed()
        self.assertIsInstance(packed.image, bytes)
        expected = model.render(request)
        image.unlink()
        np.testing.assert_array_equal(model.render(packed), expected)
        with self.assertRaises(soragen.NotFound):
            model.render(request)

    def test_a_video_goes_in(self):
        model = soragen.Model.open(CAUSAL)
        video = model.render("a fox", frames=13)
        changed = model.render("an owl", video=video, strength=0.9)
        self.assertEqual(changed.shape, video.shape)
        self.assertTrue((changed != video).any())


class Scenes(unittest.TestCase):
    """A film whose scenes were made one by one, elsewhere and in any order, equals one that was made at once."""

    def test_scenes_are_exported_and_imported(self):
        for source in (CAUSAL, CLIP):
            with self.subTest(source.name):
                model, cache = soragen.Model.open(source), folder(self)
                board = soragen.Storyboard.open("0:00 a fox | 0:01 (cut) an owl | 0:02 (cut) a cat | 0:03")
                request = soragen.Request.of_storyboard(board, **SMALL[source])
                frames = model.scenes(request)
                self.assertEqual((len(frames), sum(frames)), (3, round(3 * model.info.frame_rate[0] / model.info.frame_rate[1])))
                whole = model.render(request)
                for scene in (2, 0, 1):
                    entries, stats = model.make_scene(request, scene)
                    self.assertGreater(stats.forwards, 0)
                    names = model.film_entries(request)[scene]
                    self.assertEqual({name for name, _ in entries if name.startswith("latents/")}, set(names))
                    soragen.import_entries(cache, entries)
                with model.session(request, cache_dir=cache) as session:
                    np.testing.assert_array_equal(np.concatenate(list(session)), whole)
                    self.assertEqual((session.stats.forwards, session.stats.cached), (0, len(whole)))

    def test_an_entry_that_is_damaged_is_refused(self):
        entries, _ = soragen.Model.open(CAUSAL).make_scene("a fox", 0, frames=5)
        name, data = entries[0]
        cache = folder(self)
        for bad in ((name, data[:-1]), ("../" + name, data), ("latents/x", data)):
            with self.assertRaises(soragen.FileError):
                soragen.import_entries(cache, [bad])
        self.assertEqual(soragen.cache_usage(cache), (0, 0, 0))

    def test_what_is_not_kept_is_refused(self):
        model = soragen.Model.open(CAUSAL)
        video = model.render("a fox", frames=9)
        with self.assertRaises(soragen.RequestError):
            model.make_scene("a fox", 0, frames=9, past=video)
        with self.assertRaises(soragen.RequestError):
            model.make_scene("a fox", 1, frames=9)
        with self.assertRaises(ValueError):
            model.scenes("a fox", seconds=float("inf"))


class Errors(unittest.TestCase):
    def test_errors_are_told_apart_by_cause(self):
        with self.assertRaises(soragen.NotFound) as raised:
            soragen.Model.open("no/such/folder")
        self.assertIsInstance(raised.exception, LookupError)
        model = soragen.Model.open(CAUSAL)
        for settings, setting in (({"size": (3, 5)}, "size"), ({"frames": 0}, "length"), ({"label": "loud"}, "label"), ({"steps": 0}, "steps")):
            with self.assertRaises(soragen.RequestError) as raised:
                model.session("a fox", **settings)
            self.assertEqual(raised.exception.setting, setting)
            self.assertEqual(pickle.loads(pickle.dumps(raised.exception)).setting, setting)
        with self.assertRaises(soragen.PromptRefused) as raised:
            soragen.admit("child pornography")
        self.assertTrue(raised.exception.category)
        with self.assertRaises(ValueError):
            model.session("a fox", frames=3, seconds=1)
        with self.assertRaises(TypeError):
            model.session("a fox", duration=3)
        with self.assertRaises(ValueError):
            soragen.picture_size(b"no picture")
        with self.assertRaises(ValueError):
            model.session("a fox", video=np.zeros((4, 4, 3), np.uint8))

    def test_a_callback_may_close_the_session_and_nothing_else(self):
        raised = []

        def misuse(progress):
            for call in (lambda: session.stats, session.next_chunk, lambda: session.set_prompt("an owl")):
                try:
                    call()
                except RuntimeError as error:
                    raised.append(error)
            session.close()

        session = soragen.Model.open(CAUSAL).session("a fox", frames=9, progress=misuse)
        with self.assertRaises(soragen.Cancelled):
            session.next_chunk()
        self.assertGreaterEqual(len(raised), 3)

    def test_an_error_in_a_callback_is_raised(self):
        def fail(progress):
            raise ZeroDivisionError("of the caller")

        with soragen.Model.open(CAUSAL).session("a fox", frames=9, progress=fail) as session:
            with self.assertRaises(ZeroDivisionError):
                next(session)


@unittest.skipUnless(hasattr(_soragen, "set_step_delay"), "a build with the feature testing")
class Cancelling(unittest.TestCase):
    def test_the_interpreter_runs_while_the_engine_works_and_closing_cancels(self):
        source = copied(self, CAUSAL)
        _soragen.set_step_delay(source, 60.0)
        session = soragen.Model.open(source).session("a fox")
        raised = []

        def wait():
            try:
                session.next_chunk()
            except soragen.Cancelled as error:
                raised.append(error)

        working = threading.Thread(target=wait)
        working.start()
        # This line is reached although the engine waits for a minute.
        session.close()
        working.join(30)
        self.assertEqual(len(raised), 1)
        with self.assertRaises(soragen.Cancelled):
            session.next_chunk()

    def test_ctrl_c_cancels(self):
        source = copied(self, CAUSAL)
        program = (
            "import soragen; from soragen import _soragen\n"
            f"_soragen.set_step_delay({str(source)!r}, 60.0)\n"
            f"model = soragen.Model.open({str(source)!r})\n"
            "try:\n"
            "    model.render('a fox', progress=lambda p: print(p.phase, flush=True))\n"
            "except KeyboardInterrupt:\n"
            "    print('cancelled', flush=True)\n"
        )
        with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, env=os.environ) as running:
            while running.stdout.readline().strip() != "denoise":
                pass
            begin = time.monotonic()
            running.send_signal(signal.SIGINT)
            self.assertEqual(running.stdout.read().split()[-1], "cancelled")
            self.assertLess(time.monotonic() - begin, 30)


if __name__ == "__main__":
    unittest.main()
