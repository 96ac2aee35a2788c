"""Evaluates the model: whether its frames show the drawings that were asked for, where they were asked for.

    python evaluate.py stills --weights STATE/stills.pt
    python evaluate.py clips --weights STATE/clips.pt
    python evaluate.py judge --soragen ../../target/release/soragen --count 200
    python evaluate.py judge --soragen ../../target/release/soragen --count 40 --seconds 60
    python evaluate.py paths --soragen ../../target/release/soragen
    python evaluate.py pairs --soragen ../../target/release/soragen

`stills` and `clips` sample in torch, with references and places, half of them with drawings that were never trained, and compare
with the drawn frames: decibels on the subject, rank and error of `ruler.py`. The autoencoder's own decibels are the upper bound.
`judge` renders prompts with the engine, which chooses the reference itself, and looks for the drawing in frames 0, 12, 28, 47 and 81
(with `--seconds` only in the first and the last; not in these if it crosses the frame), for its motion, and for the place in the last frame. Without `--soragen` it judges
drawn clips: the upper bound. `paths` gives random paths, and counts the frames in which the drawing is
found within 8 pixels of its path. `pairs` gives two references, and looks for both on their sides. Several processes may share the work
of `judge`: `--part 0 --parts 2` and `--part 1 --parts 2`, each with a `--state` of its own; `--follows` lets the camera follow what runs or
walks.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

import bank
import pictures
import ruler
import sample
import scroll
from autoencoder import Autoencoder
from bank import SIDE
from canvas import WIDTH
from checkpoint import autoencoder, read
from classifier import places_of
from clips import FRAME_RATE, Clip, action, choose
from latents import TOKENS, encode, length_in_frames, references
from motions import MOTIONS
from options import parser, threads
from overlay import Overlays
from scenes import LATENT, PER_LATENT, Scene
from sheet import sheet
from text import TextEncoder
from transformer import References, Transformer

FRAMES = (0, 12, 24, 28)  # that are measured, if there are so many
# None of these wordings is in the training captions.
FORMS = (
    "show {a} {name} as it {verb} {place}", "{place} there is {a} {name} that {verb}",
    "look, {a} {name} {verb} {place}", "a short film: {place} {a} {name} {verb}", "{a} {name}, it {verb} {place}",
)


def clips(count: int, seed: int, follows: bool = False) -> list[Clip]:
    """Unseen clips of one subject, alternately of the bank and never trained. The camera is still, or `follows` what runs or walks."""
    rng, pools, made = np.random.default_rng([41, seed]), (pictures.trained()[1], pictures.held_out()), []
    while len(made) < count:
        clip = Clip(rng, Scene.draw(rng, len(made) // 2), [pools[len(made) % 2]], (1.0,), plain=True, follows=follows)
        made += [clip] if clip.speed or not follows else []
    return made


def references_of(vae: Autoencoder, wanted: list[Clip], latents: int) -> References:
    """The references of clips of one subject, both sides, at their places."""
    made, alpha = references(vae, [clip.actors[0].picture for clip in wanted])
    places = torch.zeros(len(wanted), latents, 2, 2, dtype=torch.long)
    shown = torch.zeros(len(wanted), latents, 2, dtype=torch.bool)
    for i, clip in enumerate(wanted):
        where, seen = clip.places(latents)
        for slot, (_, facing) in enumerate(clip.references):
            places[i, :, int(facing > 0)], shown[i, :, int(facing > 0)] = torch.from_numpy(where[:, slot]), torch.from_numpy(seen[:, slot])
    overlays = Overlays(vae, [clip.actors[0].picture for clip in wanted])
    overlay = torch.stack([overlays.draw([2 * i, 2 * i + 1], places[i], shown[i]) for i in range(len(wanted))]).float()
    return References(made.float(), alpha.float(), places, shown, torch.ones(len(wanted), dtype=torch.bool), overlay)


def median(values: list[float]) -> float:
    return round(float(np.nanmedian(values)), 3)


def sampled(args: argparse.Namespace, latents: int) -> None:
    vae, model, text = autoencoder(args.state), Transformer().eval(), TextEncoder()
    model.load_state_dict(read(args.weights))
    wanted, rng = clips(args.count, latents), np.random.default_rng(42)
    captions = [clip.caption(rng) for clip in wanted]
    rows, titles, found = [], [], {kind: {frame: [] for frame in FRAMES} for kind in ("trained", "never trained")}
    for start in range(0, len(wanted), 8):
        some = wanted[start : start + 8]
        placed = references_of(vae, some, latents)
        if args.no_reference:
            placed = None
        camera = torch.tensor([clip.speed for clip in some])[:, None] * torch.arange(latents)
        made = sample.latents(
            model, text(captions[start : start + 8], TOKENS), latents, placed, steps=(args.steps, args.first_steps), camera=camera,
        )
        videos = sample.decode(vae, made).numpy()
        for i, clip in enumerate(some):
            drawn, key = clip.frames(length_in_frames(latents)), clip.actors[0].picture.key
            best = sample.decode(vae, encode(vae, drawn[None]).float()).numpy()[0]
            for frame in (f for f in FRAMES if f < len(drawn)):
                x, y, facing = clip.where(frame, True)[0]
                rank, where = ruler.judge(videos[i][frame], key, rng)
                each = [ruler.decibels(v[frame], drawn[frame] / 255, key, x, y, facing) for v in (videos[i], best)]
                off = np.hypot(where.place[0] - x - SIDE / 2, where.place[1] - y - SIDE / 2)
                found["never trained" if (start + i) % 2 else "trained"][frame].append((rank == 1, where.error, off, *each))
            seen = [f for f in FRAMES if f < len(drawn)]
            rows.append(np.concatenate([videos[i][seen], drawn[seen[-1:]] / 255]))
            titles.append(f"{captions[start + i]} ({key}) {each[0]:.1f} dB")
    report = {
        kind: {
            f"frame {frame}": {
                "of": len(each), "nearest": sum(e[0] for e in each), "error": median([e[1] for e in each]),
                "pixels off": median([e[2] for e in each]), "dB": median([e[3] for e in each]), "autoencoder dB": median([e[4] for e in each]),
            }
            for frame, each in frames.items() if each
        }
        for kind, frames in found.items()
    }
    sheet(args.state / f"evaluate-{args.what}.png", rows, titles)
    tell(args, report)


def tell(args: argparse.Namespace, report: dict) -> None:
    (args.state / f"evaluate-{args.what}.json").write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))


def render(args: argparse.Namespace, prompt: str, frames: int, seed: int, *options: str) -> np.ndarray:
    """Renders a prompt with the engine; f32 `[frames, H, W, 3]`."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "frames.safetensors"
        command = [args.soragen, "render", prompt, "-o", out, "--frames", str(frames), "--seed", str(seed), "--cache-dir", ""]
        subprocess.run([*command, *options, *args.options], check=True, capture_output=True)
        return load_file(out)["frames"].numpy()


# Frames in which a path is measured, relative to the first of them; what crosses the frame is whole from the fourth latent frame on.
PATH_SEEN, CROSSING_SEEN = (0, 8, 12, 20), (12, 20, 28, 36)
# Pairs of frames in which the ground is compared, and the least movement of a walk between them in pixels.
SCROLL_SEEN, LEAST = ((28, 36), (32, 40), (36, 44)), 24
OFF = 6  # pixels; the steps of a path are 8


def moves(video: np.ndarray, clip: Clip, told: bool) -> tuple[bool, bool]:
    """Whether the subject and the ground move as they should, in any direction if the prompt has `told` none."""
    actor = clip.actors[0]

    def at(frame: int) -> tuple[int, int]:
        return ruler.measure(video[frame], [actor.picture.key])[actor.picture.key].place

    first, *rest = CROSSING_SEEN if crosses(clip.actors[0].motion) else PATH_SEEN
    begin = at(first)
    went = [np.subtract(at(frame), begin) for frame in rest]
    paths = [np.subtract(actor.at(frame // PER_LATENT)[:2], actor.at(first // PER_LATENT)[:2]) for frame in rest]
    follows = any(
        all(np.hypot(*(each - path * (sign, 1))) <= OFF for each, path in zip(went, paths)) for sign in ((1,) if told else (1, -1))
    )
    total: dict[int, float] = {}
    for before, after in SCROLL_SEEN:
        for by, error in scroll.errors(video[before], video[after], ([at(before)], [at(after)]), 96).items():
            total[by] = total.get(by, 0.0) + error
    latents = (SCROLL_SEEN[0][1] - SCROLL_SEEN[0][0]) // PER_LATENT
    scrolls = any(scroll.explains(total, sign * latents * clip.speed, LEAST) for sign in ((1,) if told else (1, -1)))
    return follows, scrolls


def crosses(motion: str) -> bool:
    """Whether the subject comes into the frame and leaves it: the first frame shows a part of it, and the last frame nothing."""
    return any(MOTIONS[motion].dx) and not MOTIONS[motion].turn


def judge(args: argparse.Namespace) -> None:
    rng, found, rows, titles = np.random.default_rng(43), [], [], []
    vae = None if args.soragen else autoencoder(args.state)
    at = (0, round(args.seconds * FRAME_RATE)) if args.seconds else (0, 12, 28, 47, 81)
    for i, clip in enumerate(clips(args.count, 43, args.follows)):
        actor = clip.actors[0]
        name, where = choose(rng, actor.picture.names), clip.scene.phrase(rng)
        words = {"a": "an" if name[0] in "aeiou" else "a", "name": name, "place": where}
        verb = action(rng, actor)
        prompt = choose(rng, FORMS).format(**words, verb=verb) + ", and the camera follows" * args.follows
        if i % args.parts != args.part:
            continue
        if args.soragen:
            video = render(args, prompt, at[-1] + 1, i)
        else:
            video = sample.decode(vae, encode(vae, clip.frames(length_in_frames(1 + SCROLL_SEEN[-1][1] // PER_LATENT))[None]).float()).numpy()[0]
        judged = [ruler.judge(video[frame], actor.picture.key, rng) for frame in at if frame < len(video)]
        told = any(phrase in where for phrase in clip.scene.place.phrases)
        found.append({
            "kind": "never trained" if i % 2 else "trained", "ranks": [rank for rank, _ in judged], "errors": [f.error for _, f in judged],
            "place": places_of(video[[min(at[-1], len(video) - 1)]], args.state) == [clip.scene.place.name] if told else None,
            "motion": actor.motion, "moves": None if args.seconds else moves(video, clip, " to the " in verb),
        })
        rows.append(video[[frame for frame in at if frame < len(video)]])
        titles.append(prompt)
    report: dict = {}
    for kind in ("trained", "never trained"):
        some = [f for f in found if f["kind"] == kind]
        report[kind] = {
            f"frame {frame}": {
                "of": len(seen), "nearest": sum(f["ranks"][j] == 1 for f in seen), "error": median([f["errors"][j] for f in seen]),
            }
            for j, frame in enumerate(at) if j < len(found[0]["ranks"])
            if (seen := [f for f in some if j not in (0, len(at) - 1) or not crosses(f["motion"])])
        }
    told = [f["place"] for f in found if f["place"] is not None]
    report["place"] = {"of": len(told), "right": sum(told)}
    report["errors"] = {
        motion: [median([f["errors"][j] for f in some]) for j in range(len(found[0]["ranks"]))]
        for motion in MOTIONS if (some := [f for f in found if f["motion"] == motion])
    }
    if not args.seconds:
        report["motion"] = {
            motion: {
                "of": len(some), "right": sum(all(f["moves"]) for f in some), "path": sum(f["moves"][0] for f in some),
                "ground": sum(f["moves"][1] for f in some),
            }
            for motion in (*MOTIONS, "all") if (some := [f for f in found if motion in (f["motion"], "all")])
        }
    sheet(args.state / "evaluate-judge.png", rows, titles)
    tell(args, report)


GROUND, TOP = 40, 8  # upper edges of a subject on the ground of a meadow and at the top, in pixels


def paths(args: argparse.Namespace) -> None:
    """Random paths of three points, at most two latents a latent frame, in steps of a latent."""
    rng, names, hits, total = np.random.default_rng(44), [d.name for d in bank.drawings()], 0, 0
    for i in range(args.count):
        name, time, points = str(rng.choice(names)), 0, []
        for _ in range(3):
            x, y = LATENT * int(rng.integers(0, 25)), LATENT * int(rng.integers(TOP // LATENT, GROUND // LATENT + 1))
            if points:
                far = max(abs(x - points[-1][1]), abs(y - points[-1][2]))
                time += max(1, -(-far // (2 * LATENT)))
            points.append((time, x, y))
        text = " | ".join(f"{t * PER_LATENT / FRAME_RATE} {x / (WIDTH - SIDE)} {(GROUND - y) / (GROUND - TOP)}" for t, x, y in points)
        video = render(args, "in a green meadow", PER_LATENT * time + 1, i, "--reference", f"bank:{name}", "--motion-path", text)
        for frame in range(0, len(video), 2 * PER_LATENT):
            x, y = (np.interp(frame / PER_LATENT, [p[0] for p in points], [p[1 + axis] for p in points]) for axis in (0, 1))
            place = ruler.measure(video[frame], [name])[name].place
            hits += np.hypot(place[0] - x - SIDE / 2, place[1] - y - SIDE / 2) <= LATENT
            total += 1
    tell(args, {"frames": total, "within 8 pixels": round(hits / total, 3)})


def pairs(args: argparse.Namespace) -> None:
    """Two references, which stand on the left and on the right."""
    rng, names, found = np.random.default_rng(45), [d.name for d in bank.drawings()], []
    for i in range(args.count):
        left, right = (str(name) for name in rng.choice(names, 2, replace=False))
        prompt = f"{left.replace('-', ' ')} and {right.replace('-', ' ')} {choose(rng, ('in a green meadow', 'on the beach', 'in the desert'))}"
        frame = render(args, prompt, 29, i, "--reference", f"bank:{left}", "--reference", f"bank:{right}")[-1]
        (rank, at_left), (other, at_right) = (ruler.judge(frame, name, rng) for name in (left, right))
        found.append(rank == 1 and other == 1 and at_left.place[0] < at_right.place[0])
    tell(args, {"pairs": len(found), "both on their sides": sum(found)})


def main() -> None:
    args = parser(__doc__, count=24, steps=sample.STEPS, first_steps=sample.FIRST_STEPS, part=0, parts=1)
    args.add_argument("what", choices=("stills", "clips", "judge", "paths", "pairs"))
    args.add_argument("--weights", type=Path, help="of the transformer")
    args.add_argument("--seconds", type=float, default=0.0, help="length of the videos that are judged at their end")
    args.add_argument("--follows", action="store_true", help="let the camera follow what runs or walks")
    args.add_argument("--no-reference", action="store_true")
    args.add_argument("--soragen", type=Path)
    args.add_argument("--options", action="append", default=[], help="additional option of soragen render, such as --options=--precision=int8")
    args = args.parse_args()
    threads(args)
    args.state.mkdir(parents=True, exist_ok=True)
    if args.what in ("judge", "paths", "pairs"):
        {"judge": judge, "paths": paths, "pairs": pairs}[args.what](args)
    else:
        sampled(args, 1 if args.what == "stills" else 8)


if __name__ == "__main__":
    main()
