"""WHAT is tuned: each engine describes how a service is started, when it is ready, and why it died. None starts anything."""


def register() -> None:
    """Make the built-in engines known under ``-e NAME``."""
    from swarmtune import registry

    for name, target, summary in (
        ("llamacpp", "llamacpp:LlamacppEngine", "llama.cpp from wheels, with a small model: works out of the box"),
        ("vllm", "vllm:VllmEngine", "vllm serve"),
        ("sglang", "sglang:SglangEngine", "python -m sglang.launch_server"),
        ("mindie", "mindie:MindieEngine", "MindIE daemon, tuned through its config.json"),
        ("simulated", "simulated:SimulatedEngine", "a simulated engine: a real server, pretended compute"),
        ("command", "command:CommandEngine", "any command line or start script"),
    ):
        registry.register_engine(name, f"swarmtune.engines.{target}", summary)
