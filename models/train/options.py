"""What the commands have in common."""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

import cv2
import torch


def parser(description: str, **defaults: float) -> argparse.ArgumentParser:
    """With `--NAME` for each of the defaults."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--state", type=Path, default=Path(__file__).parent.parent / ".state", help="where training goes on")
    made.add_argument("--device", type=torch.device, default=torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    made.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="that draw scenes")
    made.add_argument("--seed", type=int, default=int(time.time()))
    for name, value in defaults.items():
        made.add_argument(f"--{name}", type=type(value), default=value)
    return made


def fastest(device: torch.device) -> torch.dtype:
    """What it multiplies in: bf16 takes longer than f32 on a CPU without tiles (AMX), with AVX-512's instructions for it too."""
    return torch.bfloat16 if device.type != "cpu" or torch.cpu._is_amx_tile_supported() else torch.float32


def mixed(device: torch.device, wanted: bool = True) -> torch.autocast:
    return torch.autocast(device.type, torch.bfloat16, enabled=wanted and fastest(device) == torch.bfloat16)


def leave() -> None:
    """Ends the program: the compiler's own processes were once seen to keep an ordinary end waiting for ever."""
    sys.stdout.flush()
    os._exit(0)


def threads() -> None:
    """Drawing is not what is slow."""
    cv2.setNumThreads(1)
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True
