#!/usr/bin/env python3
"""Make a small Llama with random weights (33M parameters) and a real tokenizer and chat template.

make_model.py DIR            config and tokenizer, some 100 KB: where `tokenizers` is installed
make_model.py DIR --weights  its weights, 65 MB: where torch is, so that they need not be carried
"""

# ruff: noqa: PLC0415  (each half runs where the other's packages are not installed)

import argparse
import json
from pathlib import Path

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 512,
    "intermediate_size": 1408,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 64,
    "hidden_act": "silu",
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-5,
    "vocab_size": 8192,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "pad_token_id": 3,
    "tie_word_embeddings": False,
    "attention_bias": False,
    "mlp_bias": False,
    "torch_dtype": "bfloat16",
    "initializer_range": 0.02,
    "rope_theta": 10000.0,
}
SPECIAL = ["<s>", "<|im_start|>", "<|im_end|>", "<pad>"]  # ids 0 to 3
CHAT = (
    "{%- if tools %}{{ '<|im_start|>system\\nTools: ' + (tools | tojson) + '<|im_end|>\\n' }}"
    "{%- endif %}"
    "{%- for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + (m['content'] or '') + "
    "'<|im_end|>\\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{%- endif %}"
)
TEXTS_MAX = 600  # files of the standard library: enough words for the vocabulary


def write_tokenizer(folder: Path) -> None:
    """Train it on the standard library's sources; the same Python gives the same one."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    library = Path(json.__file__).parent.parent
    files = sorted(library.rglob("*.py"))[:TEXTS_MAX]
    tokenizer.train_from_iterator(
        (file.read_text(encoding="utf-8", errors="ignore") for file in files),
        trainers.BpeTrainer(
            vocab_size=CONFIG["vocab_size"],
            special_tokens=SPECIAL,
            show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        ),
    )
    if tokenizer.get_vocab_size() != CONFIG["vocab_size"]:
        raise SystemExit(f"{library} gave a vocabulary of {tokenizer.get_vocab_size()} only")
    tokenizer.save(str(folder / "tokenizer.json"))
    ids = {key: CONFIG[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    about = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": SPECIAL[0],
        "eos_token": SPECIAL[2],
        "pad_token": SPECIAL[3],
        "model_max_length": CONFIG["max_position_embeddings"],
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT,
    }
    for name, value in (
        ("config.json", CONFIG),
        ("generation_config.json", ids),
        ("tokenizer_config.json", about),
    ):
        (folder / name).write_text(json.dumps(value, indent=1), encoding="utf-8")


def write_weights(folder: Path) -> None:
    """Random, and the same each time."""
    import torch
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(0)
    hidden, inner, words = (CONFIG[k] for k in ("hidden_size", "intermediate_size", "vocab_size"))
    keys = CONFIG["num_key_value_heads"] * CONFIG["head_dim"]
    weights = {}

    def matrix(name: str, *shape: int) -> None:
        values = torch.randn(*shape, generator=generator) * 0.05
        weights[f"{name}.weight"] = values.to(torch.bfloat16)

    def ones(name: str) -> None:
        weights[f"{name}.weight"] = torch.ones(hidden, dtype=torch.bfloat16)

    matrix("model.embed_tokens", words, hidden)
    matrix("lm_head", words, hidden)
    ones("model.norm")
    for number in range(CONFIG["num_hidden_layers"]):
        layer = f"model.layers.{number}"
        matrix(f"{layer}.self_attn.q_proj", hidden, hidden)
        matrix(f"{layer}.self_attn.k_proj", keys, hidden)
        matrix(f"{layer}.self_attn.v_proj", keys, hidden)
        matrix(f"{layer}.self_attn.o_proj", hidden, hidden)
        matrix(f"{layer}.mlp.gate_proj", inner, hidden)
        matrix(f"{layer}.mlp.up_proj", inner, hidden)
        matrix(f"{layer}.mlp.down_proj", hidden, inner)
        ones(f"{layer}.input_layernorm")
        ones(f"{layer}.post_attention_layernorm")
    save_file(weights, str(folder / "model.safetensors"), metadata={"format": "pt"})


def main() -> None:
    """Write one or the other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--weights", action="store_true")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    (write_weights if given.weights else write_tokenizer)(given.folder)


if __name__ == "__main__":
    main()
