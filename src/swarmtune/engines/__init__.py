"""WHAT is tuned: an engine describes how a service is started, when it is ready, and why it ended. It starts nothing."""


def register() -> None:
    """Make the built-in engines known under ``-e NAME``; ``swarmtune init`` proposes the first that is installed."""
    from swarmtune import registry

    for name, target, summary in (
        ("vllm", "vllm:VllmEngine", "vllm serve"),
        ("sglang", "sglang:SglangEngine", "python -m sglang.launch_server"),
        ("llamacpp", "llamacpp:LlamacppEngine", "llama.cpp from wheels, with a small model: works out of the box"),
        ("mindie", "mindie:MindieEngine", "MindIE daemon, tuned through its config.json"),
        ("simulated", "simulated:SimulatedEngine", "a real server without a model, with simulated step times"),
        ("command", "command:CommandEngine", "any command line or start script"),
    ):
        registry.register_engine(name, f"swarmtune.engines.{target}", summary)
