"""What is shown of a command hides secrets, wherever they stand."""

from swarmtune.records import Command
from swarmtune.tuner.report import command_line


def test_secrets_are_hidden_in_environment_and_flags() -> None:
    command = Command(
        ("vllm", "serve", "--api-key", "geheim1", "--hf-token=geheim2", "--max-num-seqs", "8", "a b"),
        env={"HF_TOKEN": "geheim3", "PLAIN": "x y"},
    )
    assert sorted(command.secret_values) == ["geheim1", "geheim2", "geheim3"]
    shown = command_line(command)
    assert "geheim" not in shown
    assert shown == "HF_TOKEN=*** PLAIN='x y' vllm serve --api-key *** --hf-token=*** --max-num-seqs 8 'a b'"
