"""The installed engine is asked by ``check`` and ``optimizer``: real programs that print what the engines print."""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cli_runs import Cli, names_in

from swarmtune.execution import installed
from swarmtune.settings import read_settings
from swarmtune.tuner.planning.inquiry import Inquiry
from swarmtune.tuner.planning.make import make_plan

MAKE = Inquiry.make  # a fixture of all tests replaces it
HELP = """\
usage: vllm serve [model_tag] [options]

options:
  -h, --help            show this help message and exit
  --host HOST           Host name. (default: None)
  --port PORT           Port number. (default: 8000)
  --served-model-name SERVED_MODEL_NAME [SERVED_MODEL_NAME ...]
  --max-num-seqs MAX_NUM_SEQS
                        Maximum number of sequences. (default: None)
  --enforce-eager, --no-enforce-eager
  --performance-mode {balanced,interactivity,throughput}
  --brand-new BRAND_NEW
"""
VLLM = """\
#!/bin/sh
echo "$*" >> "{log}"
case "$*" in
"--version") echo "{version}" ;;
"serve --help=all") cat "{help}" ;;
*) echo "unexpected: $*" >&2; exit 9 ;;
esac
"""
FIELD = '[[vllm.target_field]]\nname = "max_num_seqs"\nconfig_position = "--max-num-seqs"\nmin = 1\nmax = 8\n'


class Machine:
    """A folder with stand-ins for engines and drivers, first on the PATH."""

    def __init__(self, folder: Path) -> None:
        self.bin = folder / "bin"
        self.home = folder / "home"
        self.log = folder / "calls.txt"
        self.model = folder / "model"
        self.model.mkdir(parents=True)
        self.bin.mkdir()
        self.install()

    def install(self, version: str = "0.40.0", text: str = HELP) -> None:
        """A stand-in for vLLM."""
        self.bin.joinpath("help.txt").write_text(text)
        self.program("vllm", VLLM.format(log=self.log, version=version, help=self.bin / "help.txt"))

    def program(self, name: str, script: str) -> Path:
        """A program of one script."""
        path = self.bin / name
        path.write_text(script)
        path.chmod(0o755)
        return path

    @property
    def calls(self) -> list[str]:
        """The arguments of each call of vLLM so far."""
        return self.log.read_text().splitlines() if self.log.exists() else []


@pytest.fixture
def machine(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Machine:
    folder = tmp_path_factory.mktemp("machine")
    monkeypatch.setenv("HOME", str(folder / "home"))
    monkeypatch.setenv("XDG_STATE_HOME", str(folder / "state"))
    monkeypatch.setattr(Inquiry, "make", MAKE)
    made = Machine(folder)
    monkeypatch.setenv("PATH", f"{made.bin}:{os.environ['PATH']}")
    return made


@pytest.fixture
def configured(clean: Path) -> Callable[..., None]:
    """Writes a config.toml for vLLM."""

    def write(others: str = "", model: str | Path = "org/model", fields: str = FIELD, more: str = "") -> None:
        (clean / "config.toml").write_text(
            f'[optimizer]\nengine = "vllm"\n{more}\n[vllm.command]\nmodel = "{model}"\nothers = "{others}"\n{fields}'
        )

    return write


def flat(text: str) -> str:
    return " ".join(text.split())


def test_it_is_asked_once_and_the_plan_says_what_is_there(
    clean: Path, cli: Cli, machine: Machine, configured: Callable[..., None]
) -> None:
    configured("--brand-new 5", machine.model)
    first = cli("check")
    assert first.code == 0, first
    fact = "vllm 0.40.0 on this machine: program and model are there; flags were checked against its help"
    assert f"installed {fact}" in flat(first.out)
    assert "Asking vllm on this machine for its flags" in first.err
    assert machine.calls == ["--version", "serve --help=all"]
    (kept,) = (machine.home / ".cache" / "swarmtune" / "installed").iterdir()
    before = kept.read_bytes()
    second = cli("optimizer", "--dry-run", "--json")
    assert kept.read_bytes() == before
    assert json.loads(second.out)["plan"]["installed"] == fact
    assert second.err == ""
    assert machine.calls == ["--version", "serve --help=all"]
    assert names_in(clean) == ["config.toml"]


def test_its_help_has_the_last_word_and_all_mistakes_come_at_once(
    cli: Cli, machine: Machine, configured: Callable[..., None]
) -> None:
    gone = '[[vllm.target_field]]\nname = "BLOCK_SIZE"\ndtype = "enum"\ndtype_param = [16, 32]\n'
    mode = gone.replace("BLOCK_SIZE", "PERFORMANCE_MODE").replace("[16, 32]", '["x", "y"]')
    configured(
        "--swap-space 4 --max-num-sequences 8 --enforce-eager=1 --brand-new", machine.model / "none", FIELD + gone + mode,
        "[load_search]\nlow = 8\nstart = 4\n[loadgen]\nisll = 5\n",
    )  # fmt: skip
    missing = f"vllm.command.model: there is no model {machine.model / 'none'} on this machine; copy it there"
    for command in (("check",), ("optimizer",)):
        ended = cli(*command)
        assert ended.code == 2
        told = [line.strip() for line in ended.err.splitlines() if line.lstrip().startswith("- ")]
        for part in (
            "others: vLLM 0.40.0 on this machine has no parameter --swap-space.",
            "has no parameter --max-num-sequences. Near: --max-num-seqs",
            "--enforce-eager is a switch and takes no value",
            "--brand-new needs a value",
            "target_field BLOCK_SIZE: vLLM 0.40.0 on this machine has no parameter --block-size",
            "target_field PERFORMANCE_MODE: --performance-mode takes one of balanced, interactivity, throughput, not 'x'",
            *([missing] if command == ("optimizer",) else []),
            "load_search: start 4 must lie between low 8",
            "loadgen.isll: unknown key",
        ):
            assert [part in line for line in told].count(True) == 1, (part, told)
        assert len(told) == 9 - (command == ("check",))


def test_a_new_version_is_asked_again(cli: Cli, machine: Machine, configured: Callable[..., None]) -> None:
    configured("--brand-new 5")
    assert cli("check").code == 0
    machine.install("0.41.0rc1", HELP.replace("--brand-new", "--newer"))
    ended = cli("check")
    assert "vLLM 0.41.0rc1 on this machine has no parameter --brand-new." in flat(ended.err)
    assert machine.calls == ["--version", "serve --help=all"] * 2


def test_checks_of_flags_can_be_turned_off(cli: Cli, machine: Machine, configured: Callable[..., None]) -> None:
    configured("--swap-space 4")
    with (Path("config.toml")).open("a") as file:
        file.write("[vllm]\ncheck_flags = false\n")
    ended = cli("check")
    assert ended.code == 0, ended
    assert "vllm on this machine: program is there" in flat(ended.out)
    assert machine.calls == []


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "prints nothing"),
        ("\x1b[1m--host\x1b[0m \ufffd" * 1000, "prints no help of a server"),
        ("--x " * 1_000_000, "prints more than 2097152 bytes"),
    ],
)
def test_a_help_that_cannot_be_read_is_no_reason_to_refuse(
    cli: Cli, machine: Machine, configured: Callable[..., None], text: str, reason: str
) -> None:
    configured("--max-num-sequences 8")
    machine.install(text=text)
    ended = cli("check")  # what SwarmTune knows counts
    assert "vLLM 0.30-0.33 has no parameter --max-num-sequences. Near: --max-num-seqs" in flat(ended.err)
    configured("--block-size 16")
    ended = cli("check")
    assert ended.code == 0, ended
    assert f"note: not checked: the flags on this machine, as `vllm serve --help=all` {reason}" in flat(ended.out)
    assert "checked against" not in ended.out


def test_a_program_that_hangs_is_given_up(machine: Machine, configured: Callable[..., None]) -> None:
    configured("--block-size 16")
    machine.program("vllm", '#!/bin/sh\n[ "$1" = serve ] && exec sleep 600\n')
    plan = make_plan(read_settings(Path("config.toml"), {}), Inquiry(limit_s=0.3))
    (note,) = (notice for notice in plan.notices if notice.startswith("not checked"))
    assert note.endswith("as `vllm serve --help=all` does not end within 0.3 s")


def test_what_is_missing_has_a_way_out(cli: Cli, machine: Machine, configured: Callable[..., None]) -> None:
    configured()
    (machine.bin / "vllm").unlink()
    sentence = "vllm.executable: there is no program vllm on this machine; install it there (pip install vllm), or"
    checked = cli("check")
    assert checked.code == 0, checked  # what is not there yet is no mistake as long as nothing is to be started
    assert f"note: missing: {sentence}" in flat(checked.out)
    text = flat(cli("optimizer").err)
    assert sentence in text
    start = machine.program("start.sh", "#!/bin/sh\n")
    start.chmod(0o644)
    (Path("config.toml")).write_text(COMMAND.format(argv=f'["{start}", "$PORT"]'))
    assert f"command.argv: {start} on this machine cannot be executed; chmod +x" in flat(cli("optimizer").err)
    start.chmod(0o755)
    assert "command on this machine: script is there" in flat(cli("check").out)
    (Path("config.toml")).write_text(COMMAND.format(argv=f'["sh", "{start}", "$PORT"]'))
    assert "command on this machine: program and script are there" in flat(cli("check").out)
    (Path("config.toml")).write_text(COMMAND.format(argv=f'["sh", "{start}.none", "$PORT"]'))
    assert f"command.argv: there is no script {start}.none on this machine" in flat(cli("optimizer").err)


COMMAND = (
    '[optimizer]\nengine = "command"\n[command]\nargv = {argv}\nmodel = "m"\n'
    '[[command.target_field]]\nname = "n"\nmin = 1\nmax = 8\n'
)
PARALLEL = '[parallel]\nenabled = true\nnode_string = "{hosts}"\nnpus_per_node = {devices}\nnodes_per_group = 1\n'


def test_devices_of_a_node_are_counted(
    cli: Cli, machine: Machine, configured: Callable[..., None], tmp_path: Path
) -> None:
    machine.program("nvidia-smi", "#!/bin/sh\nprintf '0, 81559, Disabled\\n1, 81559, [N/A]\\n'\n")
    configured(more=PARALLEL.format(hosts="127.0.0.1", devices=2) + f'work_dir = "{tmp_path / "work"}"\n')
    ended = cli("check")
    assert "vllm 0.40.0 on 127.0.0.1: program and 2 devices are there" in flat(ended.out), ended
    assert not (tmp_path / "work").exists()
    configured(more=PARALLEL.format(hosts="127.0.0.1", devices=4))
    assert "parallel: the devices 2, 3 of group0 are not on 127.0.0.1, which has 2;" in flat(cli("optimizer").err)
    machine.program("nvidia-smi", "#!/bin/sh\necho '0, 81559, Enabled'\n")  # divided: nobody can count
    assert cli("check").code == 0


def test_the_memory_of_a_device_is_read(cli: Cli, machine: Machine, configured: Callable[..., None]) -> None:
    machine.program("nvidia-smi", "#!/bin/sh\necho '0, 1024, Disabled'\n")
    shape = {"num_hidden_layers": 32, "num_attention_heads": 32, "hidden_size": 4096, "torch_dtype": "float16"}
    (machine.model / "config.json").write_text(json.dumps({**shape, "model_type": "llama"}))
    memory = f'[vllm.memory]\nmodel_config_path = "{machine.model}"\ntokens_per_sequence = 512\nweight_bytes = 1000\n'
    configured(fields=FIELD + memory)
    ended = cli("check")
    assert ended.code == 0, ended
    assert "rule: max_num_seqs <= 3" in ended.out  # 0.9 GiB, and 256 MiB for each
    (machine.bin / "nvidia-smi").unlink()
    assert "memory.kv_bytes: give either kv_bytes or device_bytes" in flat(cli("check").err)


def test_a_node_that_cannot_be_reached_is_a_note(cli: Cli, machine: Machine, configured: Callable[..., None]) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{silent.getsockname()[1]}"
        configured("--block-size 16", more=PARALLEL.format(hosts=host, devices=8))
        ended = cli("check")
    assert ended.code == 0, ended
    assert "note: not checked: 127.0.0.1 cannot be asked (" in flat(ended.out)
    assert machine.calls == []


def test_nodes_that_a_scheduler_reserves_are_not_asked(
    cli: Cli, machine: Machine, configured: Callable[..., None]
) -> None:
    configured(more=PARALLEL.format(hosts="n1", devices=1) + 'executor = "slurm"\n')
    ended = cli("check")
    assert "note: not checked: slurm reserves n1 only when the run begins" in flat(ended.out), ended


def test_sglang_is_asked_by_its_python(cli: Cli, machine: Machine, clean: Path) -> None:
    site = clean / "site"
    (site / "sglang-0.6.0.dist-info").mkdir(parents=True)
    (site / "sglang-0.6.0.dist-info" / "METADATA").write_text("Name: sglang\nVersion: 0.6.0\n")
    (site / "sglang").mkdir()
    (site / "sglang" / "launch_server.py").write_text(
        "import argparse\nparser = argparse.ArgumentParser(prog='launch_server.py')\n"
        "parser.add_argument('--model-path', '--model', required=True, help='100 percent')\n"
        "parser.add_argument('--host'); parser.add_argument('--port', type=int)\n"
        "parser.add_argument('--schedule-policy', choices=['lpm', 'fcfs'])\nparser.parse_args()\n"
    )
    text = (
        '[optimizer]\nengine = "sglang"\n[sglang]\npython = "{python}"\n[sglang.env]\nPYTHONPATH = "{site}"\n'
        '[sglang.command]\nmodel = "org/model"\nothers = "{others}"\n[[sglang.target_field]]\n'
        'name = "SCHEDULE_POLICY"\ndtype = "enum"\ndtype_param = ["lpm", "fcfs"]\n'
    )
    path = clean / "config.toml"
    path.write_text(text.format(python=sys.executable, site=site, others=""))
    ended = cli("check")
    assert "sglang 0.6.0 on this machine: program is there; flags were checked" in flat(ended.out), ended
    path.write_text(text.format(python=sys.executable, site=site, others="--tp 2"))
    assert "SGLang 0.6.0 on this machine has no parameter --tp." in flat(cli("check").err)
    path.write_text(text.format(python=sys.executable, site=clean / "nowhere", others=""))
    assert f"sglang.python: the Python of {sys.executable} on this machine has no package sglang" in flat(
        cli("check").out
    )


def test_the_simulated_engine_is_not_asked(cli: Cli, machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installed, "ask", None)
    assert cli("check", "-e", "simulated").code == 0
