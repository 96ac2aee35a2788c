"""What the tests of the package share."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
FIXTURES = ROOT / "tests" / "fixtures"
# A causal model of a few kilobytes, and a whole-clip model of the same size.
CAUSAL, CLIP = FIXTURES / "miniature", FIXTURES / "pipelines" / "t2v-unipc"
# Settings with which they make little.
SMALL = {CAUSAL: {}, CLIP: {"size": (32, 32), "steps": 2}}
os.environ.setdefault("SORAGEN", str(ROOT / "target" / "debug" / "soragen"))

FILM = " | ".join(f"0:{second:02} {'(cut) ' if second else ''}{name}" for second, name in enumerate(
    ("a fox", "an owl", "a cat", "a dog", "a wolf", "a bear", "a fish", "a bird", "a cow", "a pig", "a frog", "a mouse")
)) + " | 0:12"


def folder(test) -> Path:
    """An empty folder that is removed after the test."""
    made = Path(tempfile.mkdtemp(prefix="soragen-"))
    test.addCleanup(shutil.rmtree, made, ignore_errors=True)
    return made


def copied(test, model: Path) -> Path:
    """A copy of a model, for a test that makes it slow."""
    made = folder(test) / "model"
    shutil.copytree(model, made)
    return made
