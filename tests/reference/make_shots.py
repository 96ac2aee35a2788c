"""Creates tests/fixtures/miniature/shots.safetensors and shots.json: videos with several shots, and their requests.

    python make_shots.py TAEHV

TAEHV is a checkout of https://github.com/madebyollin/taehv. The model is that of `make_session.py`, the noise is
recorded by `src/noise.rs`. There is no cache: every step of every chunk runs all earlier pieces through the transformer
again, and each piece attends only to what a cache would hold. A piece that is recomputed with another prompt is in the
sequence twice.
"""

import json
import sys

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import UniPCMultistepScheduler, WanTransformer3DModel
from make_causal import rotate
from make_session import CONFIG, GRID, MAX_TOKENS, OTHER, PROMPT, WIDTH, HEIGHT, Prompts
from make_taehv import FIXTURE, build, encode
from PIL import Image
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from transformers import BertModel

THIRD = "a green bird in the sea"
NOISE = load_file(FIXTURE / "noise.safetensors")["noise"]
FEW = {"sampler": "few_step", "timesteps": [1000.0, 640.0], "first_timesteps": [1000.0, 900.0, 700.0, 400.0]}


def shot(frame, prompt, transition="continue", seed=None, image=False):
    return {"frame": frame, "prompt": prompt, "transition": transition, "seed": seed, "image": image}


# Differences to CONFIG, and the request. Chunks of two latent frames start at frames 0, 5, 13, 21.
CASES = {
    # Nothing of the first shot stays cached, and it ends in the middle of a chunk.
    "cut": {"frames": 15, "shots": [shot(0, PROMPT), shot(7, OTHER, "cut", seed=9)]},
    # 8 is nearer to 5 than to 13, 10 nearer to 13; 24 is near to 21 alone, since 29 is beyond the cut.
    "continue": {
        "frames": 32,
        "shots": [shot(0, PROMPT), shot(8, OTHER, seed=9), shot(10, THIRD), shot(24, PROMPT), shot(25, OTHER, "cut")],
    },
    "blend": {"frames": 29, "blend_chunks": 2, "shots": [shot(0, PROMPT), shot(5, OTHER)]},
    # Recomputed: half a chunk and a whole one, later only whole ones; each after the sink.
    "recache": {
        "frames": 29,
        "causal": {"recache": True, "window": 3},
        "shots": [shot(0, PROMPT), shot(13, OTHER), shot(21, THIRD)],
    },
    # The first frame stays cached until the prompt changes; later a frame of the new prompt replaces it, whether the prompt is
    # repeated or not.
    "renewed": {
        "frames": 53,
        "causal": {"renew_sink": 3, "sink": 1, "window": 3},
        "blend_chunks": 1,
        "shots": [shot(0, PROMPT), shot(13, OTHER), shot(37, OTHER)],
    },
    "few_step": {
        "frames": 16,
        "causal": {**FEW, "first_chunk": 1},
        "guidance_scale": 1.0,
        "shots": [shot(0, PROMPT), shot(7, OTHER, "cut")],
    },
    "few_step_sample": {
        "frames": 9,
        "causal": {**FEW, "prediction": "sample", "window": 5, "sink": 0},
        "shots": [shot(0, PROMPT)],
    },
    "image_apart": {"frames": 12, "shots": [shot(0, PROMPT), shot(6, OTHER, "cut", image=True)]},
    # Two cuts with a shot between them that is long enough to leave only its sink in the cache, and a cut to an image at
    # its frame.
    "shot_memory": {
        "frames": 57,
        "causal": {**FEW, "image": "within", "window": 4, "shots": {"sink": 2, "offset": 3, "prompt_prefix": "in the sea "}},
        "guidance_scale": 1.0,
        "shots": [
            shot(0, PROMPT), shot(12, OTHER, "cut", seed=9), shot(23, THIRD), shot(36, PROMPT, "cut"),
            shot(45, OTHER, "cut", image=True), shot(52, THIRD, "cut"),
        ],
    },
    # Like LongLive 2.
    "uni_pc": {
        "frames": 23,
        "causal": {
            "sampler": "uni_pc", "timesteps": [999.7998, 937.2654, 833.0554, 624.6873], "image": "within", "context_noise": 0.0,
            "window": 4,
        },
        "guidance_scale": 1.0,
        "shots": [shot(0, PROMPT, image=True), shot(10, OTHER, "cut", seed=9)],
    },
    "uni_pc_sample": {
        "frames": 9,
        "causal": {"sampler": "uni_pc", "prediction": "sample", "timesteps": [1000.0, 750.0, 400.0]},
        "shots": [shot(0, PROMPT)],
    },
    "image_within": {
        "frames": 18,
        "causal": {**FEW, "image": "within", "context_noise": 0.0, "window": 3},
        "guidance_scale": 1.0,
        "shots": [shot(0, PROMPT, image=True), shot(10, OTHER, "cut", seed=9, image=True)],
    },
}


def text():
    tokenizer = Tokenizer.from_file(str(FIXTURE / "tokenizer" / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(MAX_TOKENS)
    model = BertModel.from_pretrained(FIXTURE / "text_encoder", add_pooling_layer=False).eval()

    def embed(prompt):
        hidden = model(torch.tensor([tokenizer.encode(prompt).ids])).last_hidden_state
        return F.pad(hidden, (0, 0, 0, MAX_TOKENS - hidden.shape[1]))

    return embed


class Pieces:
    """Attention processor: each piece separately, over the frames that it attends to, at positions counted from the first.
    A cut adds `offset` between two neighbours."""

    def __init__(self, rope, pieces, shots, offset):
        self.rope, self.pieces, self.shots, self.offset = rope, pieces, shots, offset

    def angles(self, keys):
        at = [0]
        for before, key in zip(keys, keys[1:]):
            at.append(at[-1] + 1 + (self.offset if self.shots[before] != self.shots[key] else 0))
        tokens = GRID[0] * GRID[1]
        rows = torch.cat([torch.arange(p * tokens, (p + 1) * tokens) for p in at])
        return [x[:, rows] for x in self.rope(torch.empty(1, 1, at[-1] + 1, *GRID))]

    def __call__(self, attn, hidden, _context=None, _mask=None, _rotary=None):
        tokens = GRID[0] * GRID[1]
        split = lambda x: x.unflatten(2, (attn.heads, -1))
        q, k, v = split(attn.norm_q(attn.to_q(hidden))), split(attn.norm_k(attn.to_k(hidden))), split(attn.to_v(hidden))
        frames = lambda x, which: torch.cat([x[:, f * tokens : (f + 1) * tokens] for f in which], 1)
        out = []
        for own, seen in self.pieces:
            keys = [*seen, *own]
            cos, sin = self.angles(keys)
            tail = (cos[:, -len(own) * tokens :], sin[:, -len(own) * tokens :])
            found = F.scaled_dot_product_attention(
                rotate(frames(q, own), tail).transpose(1, 2),
                rotate(frames(k, keys), (cos, sin)).transpose(1, 2),
                frames(v, keys).transpose(1, 2),
            )
            out.append(found.transpose(1, 2).flatten(2))
        return attn.to_out[0](torch.cat(out, 1))


class History:
    """All pieces so far, and which of their frames are cached."""

    def __init__(self, model, causal):
        self.model, self.causal = model, causal
        self.latents, self.times, self.contexts, self.pieces = [], [], [], []
        self.remembered, self.shots, self.shot, self.renewing = [], [], 0, 0
        self.memory = causal.get("shots", {"sink": 0, "offset": 0})

    def read(self, latents, context):
        own = range(len(self.times), len(self.times) + latents.shape[2])
        self.pieces.append((own, list(self.remembered)))
        self.latents.append(latents)
        self.times += [self.causal["context_noise"]] * len(own)
        self.shots += [self.shot] * len(own)
        self.contexts.append(context)
        ids = [*self.remembered, *own]
        sink = 0 if self.renewing > 0 else self.causal["sink"]
        self.renewing -= len(own)
        safe = ids[:sink]
        if self.shot > 0:
            safe += [i for i, shot in enumerate(self.shots) if shot == self.shot][: self.memory["sink"]]
        while len(ids) > sink + self.causal["window"]:
            ids.remove(next(i for i in ids if i not in safe))
        self.remembered = ids

    def predict(self, x, times, context):
        first = len(self.times)
        own = range(first, first + x.shape[2])
        pieces, shots = [*self.pieces, (own, self.remembered)], [*self.shots, *[self.shot] * len(own)]
        for block in self.model.blocks:
            block.attn1.set_processor(Pieces(self.model.rope, pieces, shots, self.memory["offset"]))
            block.attn2.set_processor(Prompts([own for own, _ in pieces]))
        each = torch.tensor([*self.times, *times]).repeat_interleave(GRID[0] * GRID[1])[None]
        contexts = torch.cat([*self.contexts, context], 1)
        return self.model(torch.cat([*self.latents, x], 2), each, contexts, return_dict=False)[0][:, :, first:]


def noise(seed, shot, chunk, step, count):
    values = NOISE[[7, 9].index(seed), shot, chunk, step]
    return values[: 6 * count * GRID[1]].reshape(1, 6, count, *GRID)


def frames_of(latents):
    return 1 + 4 * (latents - 1) if latents else 0


def take(model, embed, case, config, number, shots, count, image):
    """Samples latents of at least `count` frames for the shots between two cuts, numbered from the first frame of the scene."""
    causal, guidance = config["causal"], config["guidance_scale"]
    histories = [History(model, causal) for _ in range(2)]
    prompts, latents, done = list(shots), [], 0
    seed, shown, target, left, after_cut = 7, None, None, 0, None
    apart = image is not None and causal.get("image", "apart") == "apart"
    while frames_of(done) < count:
        if done == 0:
            size = 1 if apart else causal.get("first_chunk", causal["chunk"])
        else:
            size = causal["chunk"]
        here, after = frames_of(done), frames_of(done + size)
        while prompts and (
            prompts[0]["frame"] <= here
            or after >= count
            or prompts[0]["frame"] - here <= after - prompts[0]["frame"]
        ):
            begun = prompts.pop(0)
            target, seed = embed(begun["prompt"]), begun["seed"] or 7
            left = case.get("blend_chunks", 0) if shown is not None else 0
            if begun["transition"] == "cut" and done > 0:
                for history in histories:
                    history.shot += 1
                shown, target, after_cut = None, embed(causal["shots"]["prompt_prefix"] + begun["prompt"]), target
        weight = 1 / (left + 1)
        fresh = target if shown is None else shown * (1 - weight) + target * weight
        left = max(left - 1, 0)
        if causal.get("recache") and shown is not None and not torch.equal(fresh, shown):
            history, limit = histories[0], causal["sink"] + causal["window"] + causal["chunk"]
            last = done if done <= limit else limit - causal["sink"]
            history.remembered = history.remembered[: causal["sink"]] if last < done else []
            history.read(torch.cat(latents, 2)[:, :, done - last :], fresh)
        if "renew_sink" in causal and shown is not None and not torch.equal(fresh, shown):
            for history in histories:
                history.renewing = causal["renew_sink"]
        shown = fresh
        contexts = [shown, embed("")]

        if done == 0 and apart:
            x = image
        else:
            pinned = image if done == 0 and image is not None else None
            x = noise(seed, number, done, 0, size)
            own = causal["timesteps"]
            times = [*(causal.get("first_timesteps", own) if done == (1 if apart else 0) else own), 0.0]
            unipc = UniPCMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction")
            unipc.set_timesteps(len(times) - 1, sigmas=np.array(times[:-1]) / 1000)
            for step, (t, after) in enumerate(zip(times, times[1:])):
                each = [float(unipc.timesteps[step]) if causal["sampler"] == "uni_pc" else t] * size
                if pinned is not None:
                    x, each[0] = torch.cat([pinned, x[:, :, 1:]], 2), 0.0
                out = histories[0].predict(x, each, contexts[0])
                if guidance > 1:
                    away = histories[1].predict(x, each, contexts[1])
                    out = away + guidance * (out - away)
                clean = out if causal.get("prediction") == "sample" else x - out * t / 1000
                if causal["sampler"] == "uni_pc":
                    velocity = (x - out) / (t / 1000) if causal.get("prediction") == "sample" else out
                    x = unipc.step(velocity, unipc.timesteps[step], x, return_dict=False)[0]
                elif causal["sampler"] == "euler":
                    x = clean + (x - clean) * after / t
                elif after > 0:
                    x = clean * (1 - after / 1000) + noise(seed, number, done, step + 1, size) * after / 1000
                else:
                    x = clean
            if pinned is not None:
                x = torch.cat([pinned, x[:, :, 1:]], 2)
        for history, context in zip(histories, contexts):
            history.read(x, context)
        latents.append(x)
        done += size
        if after_cut is not None:
            target, after_cut, left = after_cut, None, 0
    return torch.cat(latents, 2)


@torch.no_grad()
def main():
    embed, taehv = text(), build(sys.argv[1])
    config = json.loads((FIXTURE / "transformer" / "config.json").read_text())
    # Recomputed pieces make the sequence longer than the cache.
    config = {key: value for key, value in config.items() if not key.startswith("_")} | {"rope_max_seq_len": 64}
    model = WanTransformer3DModel(**config).eval()
    model.load_state_dict(load_file(FIXTURE / "transformer" / "diffusion_pytorch_model.safetensors"))
    picture = Image.open(FIXTURE / "image.png").convert("RGB")
    pixels = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).reshape(1, 1, HEIGHT, WIDTH, 3)
    first = encode(taehv, pixels.permute(0, 1, 4, 2, 3) / 255).transpose(1, 2)
    tensors = {}
    for name, case in CASES.items():
        config = {**CONFIG, "causal": {**CONFIG["causal"], **case.get("causal", {})}}
        config["guidance_scale"] = case.get("guidance_scale", CONFIG["guidance_scale"])
        forgets = lambda shot: shot["transition"] == "cut" and ("shots" not in config["causal"] or shot["image"])
        cuts = [i for i, shot in enumerate(case["shots"]) if i == 0 or forgets(shot)]
        parts = []
        for number, i in enumerate(cuts):
            last = cuts[number + 1] if number + 1 < len(cuts) else len(case["shots"])
            begin = case["shots"][i]["frame"]
            end = case["shots"][last]["frame"] if last < len(case["shots"]) else case["frames"]
            shots = [{**shot, "frame": shot["frame"] - begin} for shot in case["shots"][i:last]]
            image = first if shots[0]["image"] else None
            latents = take(model, embed, case, config, number, shots, end - begin, image)
            parts.append(taehv.decode_video(latents.transpose(1, 2), show_progress_bar=False)[0, : end - begin])
        frames = torch.cat(parts)
        print(f"{name}: {tuple(frames.shape)}, {float(((frames > 0) & (frames < 1)).float().mean()):.0%} inside")
        tensors[name] = frames.permute(0, 2, 3, 1).contiguous()
    save_file(tensors, FIXTURE / "shots.safetensors")
    (FIXTURE / "shots.json").write_text(json.dumps(CASES, indent=1) + "\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
