"""`python -m soragen.serve --port 8000`: serves `/v1/videos` on one machine."""

from __future__ import annotations

import argparse
import dataclasses
import ipaddress
import signal
import sys
import threading
from pathlib import Path

import ray
from ray import serve

import soragen

from .config import Config, ConfigError, ModelConfig
from .service import application


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def configuration(args: argparse.Namespace) -> Config:
    config = Config.read(args.config) if args.config else Config()
    if args.folder:
        config = dataclasses.replace(config, folder=args.folder)
    if args.model:
        config = dataclasses.replace(config, models={"soragen": ModelConfig(args.model)}, default="soragen", unknown="soragen")
    config = config.with_tokens(is_loopback(args.host))
    return dataclasses.replace(config, folder=Path(config.folder).absolute())


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m soragen.serve", description="Serves OpenAI's videos interface, /v1/videos.")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--host", default="127.0.0.1", help="by default only this machine reaches it")
    parser.add_argument("--config", type=Path, help="TOML file")
    parser.add_argument("--folder", type=Path, help="of jobs and files")
    parser.add_argument("--model", help="builtin, a folder, or hf:OWNER/NAME")
    parser.add_argument("--address", help="of a Ray cluster; by default Ray starts on this machine")
    args = parser.parse_args()
    try:
        config = configuration(args)
        soragen.command.executable()
    except (ConfigError, soragen.Error, OSError) as error:
        print(f"soragen.serve: {error}", file=sys.stderr)
        return 1
    here = {} if args.address else {"include_dashboard": False}
    ray.init(address=args.address or "local", log_to_driver=False, **here)
    serve.start(http_options={"host": args.host, "port": args.port})
    serve.run(application(config), name="soragen", route_prefix="/")
    # After Ray, which sets its own.
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    print(f"http://{args.host}:{args.port}/v1/videos", flush=True)
    while not stopped.wait(1):
        pass
    # A cluster may serve other applications.
    serve.delete("soragen") if args.address else serve.shutdown()
    ray.shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
