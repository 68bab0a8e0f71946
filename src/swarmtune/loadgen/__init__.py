"""HOW a service is measured: our own load generator, and adapters for those of others."""


def register() -> None:
    """Make the built-in load generators known under ``-b NAME``."""
    from swarmtune import registry

    registry.register_benchmarks(
        "swarmtune",
        "swarmtune.loadgen.benchmark:SwarmtuneBenchmark",
        "our own load generator: OpenAI completions and chat, streaming; certifies its own accuracy",
    )
    registry.register_benchmarks(
        "vllm_benchmark", "swarmtune.loadgen.adapters.vllm_bench:VllmBenchmark", "vllm bench serve"
    )
    registry.register_benchmarks("aiperf", "swarmtune.loadgen.adapters.aiperf:AiperfBenchmark", "NVIDIA AIPerf")
    registry.register_benchmarks("guidellm", "swarmtune.loadgen.adapters.guidellm:GuidellmBenchmark", "GuideLLM")
    registry.register_benchmarks(
        "ais_bench", "swarmtune.loadgen.adapters.ais_bench:AisBenchBenchmark", "AISBench, which Ascend users compare on"
    )
