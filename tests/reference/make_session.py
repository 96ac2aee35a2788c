"""Creates the other parts of the tiny causal model in tests/fixtures/miniature, and its reference videos.

    python make_session.py TAEHV

TAEHV is a checkout of https://github.com/madebyollin/taehv. The transformer has diffusers' blocks with the
self-attention of `make_causal.py`. There is no cache: every step of every chunk runs all latents up to it through the
transformer, the clean ones at the timestep at which the engine caches them.
"""

import json
import sys

import torch
import torch.nn.functional as F
from make_causal import Rolling
from make_pipelines import LETTERS, WORDS, picture, scramble, transformer
from make_taehv import FIXTURE, build, encode
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel

HEIGHT, WIDTH, GRID = 16, 48, (1, 3)
LATENTS, MAX_TOKENS = 5, 12
CONFIG = {
    "format": 1,
    "name": "miniature",
    "frame_rate": [16, 1],
    "sizes": [[WIDTH, HEIGHT]],
    "natural_latents": LATENTS,
    "causal": {
        "chunk": 2,
        "window": 2,
        "sink": 1,
        "context_noise": 40.0,
        "timesteps": [1000.0, 720.5, 300.0],
        "sampler": "euler",
    },
    "guidance_scale": 3.0,
    "max_text_tokens": MAX_TOKENS,
}
PROMPT = "the red fox runs over snow"
# More than the maximum.
OTHER = "a blue bird and the green cat in the sea of snow and the slow dog"


def text():
    vocab = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS, *LETTERS.lower()])}
    vocab = {word: i for i, word in enumerate(vocab)}
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = [("[CLS]", vocab["[CLS]"]), ("[SEP]", vocab["[SEP]"])]
    tokenizer.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", special_tokens=special)
    # The settings of sentence-transformers, which must be ignored.
    tokenizer.enable_padding(length=20)
    tokenizer.enable_truncation(20)
    folder = FIXTURE / "tokenizer"
    folder.mkdir(exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))

    config = BertConfig(
        vocab_size=len(vocab),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=16,
        layer_norm_eps=1e-12,
    )
    model = scramble(BertModel(config, add_pooling_layer=False), 61, {"embeddings": 3})
    model.save_pretrained(FIXTURE / "text_encoder")

    def embed(prompt):
        tokenizer.no_padding()
        tokenizer.enable_truncation(MAX_TOKENS)
        ids = torch.tensor([tokenizer.encode(prompt).ids])
        hidden = model(ids).last_hidden_state
        return F.pad(hidden, (0, 0, 0, MAX_TOKENS - hidden.shape[1]))

    return embed


class Prompts:
    """Cross-attention processor: each chunk with its own prompt."""

    def __init__(self, chunks):
        self.chunks = chunks

    def __call__(self, attn, hidden, context, _mask=None, _rotary=None):
        split = lambda x: x.unflatten(2, (attn.heads, -1)).transpose(1, 2)
        tokens = hidden.shape[1] // self.chunks[-1].stop
        out = []
        for chunk, context in zip(self.chunks, context.split(MAX_TOKENS, 1)):
            query = split(attn.norm_q(attn.to_q(hidden[:, chunk.start * tokens : chunk.stop * tokens])))
            key, value = split(attn.norm_k(attn.to_k(context))), split(attn.to_v(context))
            out.append(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))
        return attn.to_out[0](torch.cat(out, 1))


def sample(model, noise, prompts, empty, first=None):
    """Samples latents from `noise` `[1, C, T, h, w]`; `prompts` has one per chunk, `first` are the latents of an image."""
    causal = CONFIG["causal"]
    timesteps = [*causal["timesteps"], 0.0]
    latents, chunks = noise[:, :, :0], []
    while latents.shape[2] < LATENTS:
        done = latents.shape[2]
        image = first is not None and done == 0
        chunks.append(range(done, done + (1 if image else causal["chunk"])))
        for block in model.blocks:
            block.attn1.set_processor(Rolling(model.rope, causal["window"], causal["sink"], chunks, GRID))
            block.attn2.set_processor(Prompts(chunks))

        def velocity(x, t, prompts):
            each = torch.tensor([causal["context_noise"]] * done + [t] * len(chunks[-1]))
            each = each.repeat_interleave(GRID[0] * GRID[1])[None]
            return model(torch.cat([latents, x], 2), each, torch.cat(prompts, 1), return_dict=False)[0][:, :, done:]

        if image:
            x = first
        else:
            x = noise[:, :, done : chunks[-1].stop]
            # Frames of the last chunk beyond the end are dropped.
            x = F.pad(x, (0, 0, 0, 0, 0, len(chunks[-1]) - x.shape[2]))
            for t, after in zip(timesteps, timesteps[1:]):
                away = velocity(x, t, [empty] * len(chunks))
                towards = velocity(x, t, prompts[: len(chunks)])
                x = x + (away + CONFIG["guidance_scale"] * (towards - away)) * (after - t) / 1000
        latents = torch.cat([latents, x], 2)
    return latents


@torch.no_grad()
def main():
    embed, taehv = text(), build(sys.argv[1])
    model = transformer(
        62,
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=6,
        out_channels=6,
        text_dim=16,
        freq_dim=16,
        ffn_dim=32,
        num_layers=2,
        patch_size=(1, 1, 1),
        rope_max_seq_len=16,
    )
    model.save_pretrained(FIXTURE / "transformer")
    (FIXTURE / "soragen.json").write_text(json.dumps(CONFIG, indent=2) + "\n")
    (FIXTURE / "model_index.json").write_text('{ "_class_name": "SoragenPipeline" }\n')
    image = picture(WIDTH, HEIGHT)
    image.save(FIXTURE / "image.png")
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).reshape(1, 1, HEIGHT, WIDTH, 3)
    first = encode(taehv, pixels.permute(0, 1, 4, 2, 3) / 255).transpose(1, 2)

    noise = torch.randn(1, 6, LATENTS, *GRID, generator=torch.Generator().manual_seed(63))
    prompt, other, empty = embed(PROMPT), embed(OTHER), embed("")
    videos = {
        "text": sample(model, noise, [prompt] * 3, empty),
        "image": sample(model, noise, [prompt] * 3, empty, first),
        "switched": sample(model, noise, [prompt, other, other], empty),
    }
    expected = {"latents": noise, "prompt_embeds": other}
    for name, latents in videos.items():
        frames = taehv.decode_video(latents.transpose(1, 2), show_progress_bar=False)[0, : 1 + 4 * (LATENTS - 1)]
        inside = float(((frames > 0) & (frames < 1)).float().mean())
        print(f"{name}: latents {tuple(latents.shape)} std {latents.std():.2f}, {tuple(frames.shape)}, {inside:.0%} inside")
        expected[name] = frames.permute(0, 2, 3, 1)
    save_file({key: value.contiguous() for key, value in expected.items()}, FIXTURE / "session.safetensors")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
