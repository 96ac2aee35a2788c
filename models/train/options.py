"""Options that all training commands share."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import cv2
import torch


def parser(description: str, **defaults: float) -> argparse.ArgumentParser:
    """A parser with an option `--NAME` for each default."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--state", type=Path, default=Path(__file__).parent.parent / ".state", help="folder of the training state")
    made.add_argument("--device", type=torch.device, default=torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    made.add_argument("--threads", type=int, default=1, help="threads of torch")
    made.add_argument("--seed", type=int, default=int(time.time()))
    for name, value in defaults.items():
        made.add_argument(f"--{name}", type=type(value), default=value)
    return made


def seconds_at_work() -> float:
    """CPU time of this process divided by the number of threads: what it would take alone on the machine."""
    return time.process_time() / torch.get_num_threads()


def fastest(device: torch.device) -> torch.dtype:
    """Data type of matrix products: bf16 is slower than f32 on a CPU without AMX tiles, even with AVX-512 BF16."""
    return torch.bfloat16 if device.type != "cpu" or torch.cpu._is_amx_tile_supported() else torch.float32


def threads(args: argparse.Namespace) -> None:
    """Limits OpenCV to one thread, since drawing is not the bottleneck."""
    cv2.setNumThreads(1)
    torch.set_num_threads(args.threads)
    torch.set_float32_matmul_precision("high")
