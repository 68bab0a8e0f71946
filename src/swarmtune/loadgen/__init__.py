"""HOW a service is measured: our own load generator, and adapters for those of others.

The rooms follow the way of a request: ``ask`` (which requests), ``endpoints`` (how they look), ``send`` over ``wire``,
``read`` (what the answers say), ``judge`` (numbers and the certificate), ``exports`` (files). ``distributed`` runs several
workers, ``selftest`` shows what this machine can measure, ``adapters`` drive the load generators of others.
"""

BENCHMARKS = {
    "swarmtune": (
        "benchmark:SwarmtuneBenchmark",
        "our own load generator: OpenAI completions and chat, streaming; certifies its own accuracy",
    ),
    "vllm_benchmark": ("adapters.vllm_bench:VllmBenchmark", "vllm bench serve"),
    "aiperf": ("adapters.aiperf:AiperfBenchmark", "NVIDIA AIPerf"),
    "guidellm": ("adapters.guidellm:GuidellmBenchmark", "GuideLLM"),
    "ais_bench": ("adapters.ais_bench:AisBenchBenchmark", "AISBench, which Ascend users compare on"),
}
# name -> (where the class is, what it calls); adding an endpoint is one file in endpoints/ and one line here.
ENDPOINTS = {
    "chat": ("chat:Chat", "OpenAI chat completions"),
    "completions": ("completions:Completions", "OpenAI completions"),
    "embeddings": ("embeddings:Embeddings", "OpenAI embeddings"),
    "responses": ("responses:Responses", "OpenAI responses"),
    "rankings": ("rankings:Rankings", "rankings of NVIDIA NIM, Cohere, Jina, vLLM and Hugging Face TEI"),
    "tgi": ("tgi:Tgi", "Hugging Face text-generation-inference"),
    "template": ("template:Template", "any API that takes and answers JSON"),
}


def register() -> None:
    """Make the built-in load generators (``-b NAME``) and endpoints (``--endpoint-type NAME``) known."""
    from swarmtune import registry

    for name, (target, summary) in BENCHMARKS.items():
        registry.register_benchmarks(name, f"{__name__}.{target}", summary)
    for name, (target, summary) in ENDPOINTS.items():
        registry.register_endpoints(name, f"{__name__}.endpoints.{target}", summary)
