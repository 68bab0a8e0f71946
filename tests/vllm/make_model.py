"""Make a tiny model directory that vLLM serves with random weights: its own (``--load-format dummy``) or the folder's.

Run it with the Python of ``.venv-vllm``: ``.venv-vllm/bin/python tests/vllm/make_model.py [--directory DIR] [--weights]``.
Does nothing when the directory is complete.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
VOCABULARY = 2048
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "bos_token_id": 0,
    "eos_token_id": 1,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
}
TEMPLATE = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant:"
TOKENIZER = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "bos_token": "<s>",
    "eos_token": "</s>",
    "model_max_length": 4096,
    "clean_up_tokenization_spaces": False,
    "chat_template": TEMPLATE,
}


def common_words() -> list[str]:
    """The words of synthetic prompts: one token each here, as in the vocabularies of real models."""
    source = (ROOT / "src" / "swarmtune" / "workload" / "tokens.py").read_text()
    return source.partition('COMMON_WORDS = """')[2].partition('"""')[0].split()


def text(lines: int = 20_000) -> list[str]:
    """Text with as many different words as a vocabulary of this size needs; the same every time."""
    rng = random.Random(0)
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 9))) for _ in range(4000)]
    common = common_words()
    return [" ".join([*rng.choices(common, k=12), *rng.choices(words, k=6)]) for _ in range(lines)]


def tokenizer_json() -> str:
    """A byte-level BPE tokenizer trained on ``text()``. All its tokens are whole characters: a random model that repeats a
    part of one would answer without any text.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=[letter for letter in pre_tokenizers.ByteLevel.alphabet() if letter.isascii()],
        show_progress=False,
    )
    tokenizer.train_from_iterator(text(), trainer)
    return str(tokenizer.to_str())


def main() -> None:
    """Read the options and write the files; ``config.json`` last, as the sign that the rest is there."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--directory", type=Path, default=ROOT / ".cache" / "tiny-llama", help="where to write it")
    parser.add_argument(
        "--weights", action="store_true", help="also write random weights, as any model's folder has them"
    )
    arguments = parser.parse_args()
    directory = arguments.directory.absolute()
    if (directory / "config.json").exists():
        sys.stdout.write(f"{directory} is complete.\n")
        return
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "tokenizer.json").write_text(tokenizer_json())
    (directory / "tokenizer_config.json").write_text(json.dumps(TOKENIZER, indent=1))
    if arguments.weights:
        import torch
        from transformers import LlamaConfig, LlamaForCausalLM

        torch.manual_seed(0)
        LlamaForCausalLM(LlamaConfig(**CONFIG)).to(torch.bfloat16).save_pretrained(directory)
    (directory / "config.json").write_text(json.dumps(CONFIG, indent=1))
    sys.stdout.write(f"{directory} is ready.\n")


if __name__ == "__main__":
    main()
