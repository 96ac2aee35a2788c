"""`python -m soragen.ray film.toml -o film.mp4`: makes a film on a Ray cluster."""

from __future__ import annotations

import argparse
import sys

import soragen

from .film import film
from .pool import FilmError


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m soragen.ray", description="Makes the scenes of a film on a Ray cluster, and puts them together here.",
        epilog="Arguments after -- go to `soragen render`, for example --certificate and --private-key.",
    )
    parser.add_argument("storyboard", help="a TOML, SubRip or WebVTT file, or its text")
    parser.add_argument("-o", "--output", required=True, help="the file, such as film.mp4")
    parser.add_argument("--address", help="of the cluster, such as auto or ray://HOST:10001; by default Ray starts on this machine")
    parser.add_argument("--model", default="builtin", help="builtin, a folder on every machine, or hf:OWNER/NAME")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--workers", type=int, help="by default one for each GPU, else one for every two CPUs")
    parser.add_argument("--cpus", type=float, help="of each worker")
    parser.add_argument("--cache-dir", help="where finished scenes are kept")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, help="the length; by default the end of the storyboard")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    known, more = sys.argv[1:], []
    if "--" in known:
        known, more = known[: known.index("--")], known[known.index("--") + 1 :]
    args = parser.parse_args(known)
    if args.cpus is not None and args.cpus <= 0:
        parser.error("--cpus must be above 0")
    settings = {"seed": args.seed} | ({"seconds": args.seconds} if args.seconds is not None else {})
    try:
        report = film(
            args.storyboard, args.output, args.address, model=args.model, options={"device": args.device, "precision": args.precision},
            workers=args.workers, cpus=args.cpus, cache_dir=args.cache_dir, arguments=more, quiet=args.quiet, **settings,
        )
    except (soragen.Error, FilmError, OSError) as error:
        print(f"soragen.ray: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("soragen.ray: stopped; finished scenes are kept", file=sys.stderr)
        return 130
    print(f"{args.output}: {report.made} of {report.scenes} scenes made in {report.seconds:.1f} s, {report.lost} lost on the way", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
