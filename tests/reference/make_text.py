"""Records cleaned and tokenized prompts, and the features of a long prompt.

Writes tests/fixtures/prompts.json and tests/fixtures/umt5.safetensors, with the text encoders of the tiny
pipelines.

    python make_text.py
"""

import json
from pathlib import Path

import torch
from diffusers.pipelines.wan.pipeline_wan import prompt_clean
from safetensors.torch import save_file
from transformers import AutoTokenizer, UMT5EncoderModel

FIXTURES = Path(__file__).parent.parent / "fixtures"

PROMPTS = [
    "",
    "   ",
    "a red fox runs over the snow",
    "  tabs\tand\r\nlines \n\n and   spaces\u3000here  ",
    "“Curly” ‘quotes’ and a dash — stay",
    "Tom &amp; Jerry, &lt;b&gt;bold&lt;/b&gt;",
    "<i>both</i> &amp;amp; as they stand &amp;amp;amp;",
    "twice &amp;amp; thrice &amp;amp;amp; more &amp;amp;amp;amp;",
    "a <b>tag</b> &amp; an &ldquo;entity&rdquo;",
    "&ldquo;entity&rdquo; &eacute;t&eacute; &#233; &#xe9; &hellip;",
    "open &amp and &copy and &notit; R&D AT&T",
    "ﬁne ﬂuﬀy eﬃcient",
    "ＷＩＤＥ　ｌｅｔｔｅｒｓ！ ｶﾀｶﾅ",
    "cafe\u0301 combines",
    "zero\u200bwidth \ufeffmark \u0007bell",
    "\u001b[31mred\u001b[0m on a terminal",
    "日本の猫 and кот и пёс 🦊",
    "naïve façade, señor",
    "line\u2028separator",
]


@torch.no_grad()
def main():
    tensors = {}
    tokens = {}
    long = "the fox and the dog on the snow, in the sea: a blue bird! " * 12
    longer = long * 3
    for name in ("t2v-unipc", "t2v-euler"):
        folder = FIXTURES / "pipelines" / name
        tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
        encoder = UMT5EncoderModel.from_pretrained(folder / "text_encoder").eval()
        for key, prompt in (("long", long), ("longer", longer)):
            inputs = tokenizer(
                [prompt_clean(prompt)], padding="max_length", max_length=512, truncation=True, return_tensors="pt"
            )
            length = int(inputs.attention_mask.sum())
            hidden = encoder(inputs.input_ids, inputs.attention_mask).last_hidden_state
            tensors[f"{name}.{key}"] = hidden[:, :length].contiguous()
            print(name, key, length)
        tokens = [tokenizer(prompt_clean(prompt)).input_ids for prompt in PROMPTS]
    cases = [dict(prompt=p, clean=prompt_clean(p), tokens=t) for p, t in zip(PROMPTS, tokens)]
    (FIXTURES / "prompts.json").write_text(json.dumps(dict(long=long, longer=longer, cases=cases), indent=1) + "\n")
    save_file(tensors, FIXTURES / "umt5.safetensors")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
