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

from swarmtune.apps.cli.options import read_plan
from swarmtune.errors import ConfigValidationError
from swarmtune.execution import installed
from swarmtune.execution.installed import HELP_S
from swarmtune.settings import read_settings
from swarmtune.tuner.planning import inquiry
from swarmtune.tuner.planning.inquiry import CHECK_S, Inquiry
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
    assert machine.calls == ["serve --help=all", "--version"]
    (kept,) = (machine.home / ".cache" / "swarmtune" / "installed").iterdir()
    before = kept.read_bytes()
    second = cli("optimizer", "--dry-run", "--json")
    assert kept.read_bytes() == before
    assert json.loads(second.out)["plan"]["installed"] == fact
    assert second.err == ""
    assert machine.calls == ["serve --help=all", "--version"]
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
            missing,
            "load_search: start 4 must lie between low 8",
            "loadgen.isll: unknown key",
        ):
            assert [part in line for line in told].count(True) == 1, (part, told)
        assert len(told) == 9


def test_a_new_version_is_asked_again(cli: Cli, machine: Machine, configured: Callable[..., None]) -> None:
    configured("--brand-new 5")
    assert cli("check").code == 0
    machine.install("0.41.0rc1", HELP.replace("--brand-new", "--newer"))
    ended = cli("check")
    assert "vLLM 0.41.0rc1 on this machine has no parameter --brand-new." in flat(ended.err)
    assert machine.calls == ["serve --help=all", "--version"] * 2


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
    reports: list[str] = []
    plan = make_plan(read_settings(Path("config.toml"), {}), Inquiry(reports.append, limit_s=0.6))
    (note,) = (notice for notice in plan.notices if notice.startswith("not checked"))
    assert note.endswith("as `vllm serve --help=all` does not end within 0.6 s")
    assert reports[:3] == [
        "Asking vllm on this machine for its flags; this may take 0.6 s, once.",
        "vllm on this machine has not answered for 0.2 s.",
        "vllm on this machine has not answered for 0.4 s.",
    ]


def test_nobody_waits_long_for_a_program_that_hangs_beside_a_mistake(
    machine: Machine,
    configured: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(inquiry, "CHECK_S", 0.6)
    machine.program("vllm", '#!/bin/sh\n[ "$1" = serve ] && exec sleep 600\n')
    configured("--block-size 16", more="enginee = 1")  # a mistake in the file
    with pytest.raises(ConfigValidationError, match=r"optimizer\.enginee"):
        read_plan(Path("config.toml"), {}, preview=True)
    assert "this may take 0.6 s, once" in capsys.readouterr().err
    configured("--block-size 16", more="[objective.slo]\np42_foo = 5")  # and one in the plan
    with pytest.raises(ConfigValidationError, match="p42_foo"):
        read_plan(Path("config.toml"), {})
    assert "this may take 0.6 s, once" in capsys.readouterr().err
    configured("--brand-new 5")  # which the help may know: it gets its time
    asked = Inquiry(lambda _: None, limit_s=0.9)
    with pytest.raises(ConfigValidationError, match="brand-new"):
        make_plan(read_settings(Path("config.toml"), {}), asked)
    assert asked.limit_s == 0.9


def test_one_time_is_for_all_questions_to_a_program(machine: Machine, configured: Callable[..., None]) -> None:
    configured("--brand-new 5")
    machine.program("vllm", f"#!/bin/sh\n[ $1 = serve ] && exec cat {machine.bin}/help.txt\nexec sleep 600\n")
    assert Inquiry(preview=True).limit_s == CHECK_S < Inquiry().limit_s == HELP_S
    plan = make_plan(read_settings(Path("config.toml"), {}), Inquiry(limit_s=1.0))
    assert "vllm on this machine: program is there" in plan.installed[0]


@pytest.mark.parametrize("broken", ["loop", "no x"])
def test_a_program_that_cannot_be_run_is_not_there(
    cli: Cli, machine: Machine, configured: Callable[..., None], broken: str
) -> None:
    configured()
    program = machine.bin / "vllm"
    if broken == "loop":
        program.unlink()
        program.symlink_to(machine.bin / "other")
        (machine.bin / "other").symlink_to(program)
    else:
        program.chmod(0o644)
    config = Path("config.toml")
    config.write_text(f'{config.read_text()}\n[vllm]\nexecutable = "{program}"\n')
    checked = flat(cli("check").out)
    why = "cannot be run: Too many levels" if broken == "loop" else "cannot be executed; chmod +x"
    assert f"{program} on this machine {why}" in checked
    assert "program is there" not in checked
    assert f"vllm.executable: {program} on this machine {why}" in flat(cli("optimizer").err)


def test_what_is_missing_is_named_beside_a_mistake(cli: Cli, machine: Machine, configured: Callable[..., None]) -> None:
    (machine.bin / "vllm").unlink()
    for mistake in ("--max-num-sqs 4", "--served-model-name 'x"):  # one of them lets no command be made
        configured(mistake, model="/absent/model")
        ended = cli("check")
        assert ended.code == 2
        for words in ("vllm.command.others: ", "there is no program vllm on this", "no model /absent/model on this"):
            assert words in flat(ended.err), ended.err


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


@pytest.mark.parametrize(
    "argv", ["bash start.sh", "bash -e start.sh", "python3 serve/run.py", "sh -eo pipefail ./a.sh"]
)
def test_a_script_that_is_absent_is_named_wherever_it_will_run(
    cli: Cli, machine: Machine, tmp_path: Path, argv: str
) -> None:
    words = argv.split()
    script, content = Path(words[-1]), COMMAND.format(argv=json.dumps([*words, "$PORT"]))
    for more in ("", PARALLEL.format(hosts="127.0.0.1", devices=0) + f'work_dir = "{tmp_path / "work"}"\n'):
        Path("config.toml").write_text(content + more)
        named = script if script.parent == Path() and words[-1][0] != "." else script.absolute()
        sentence = f"command.argv: there is no script {named} on ".replace(" ", "")
        assert f"note:missing:{sentence}" in "".join(cli("check").out.split())
        assert sentence in "".join(cli("optimizer").err.split())
    script.parent.mkdir(exist_ok=True)
    script.write_text("exit 1\n")
    assert "command on 127.0.0.1: program and script are there" in flat(cli("check").out)


@pytest.mark.parametrize("hosts", ["", "127.0.0.1"])
@pytest.mark.parametrize(
    ("content", "mode", "words"),
    [
        ("#!/nope\n", 0o755, "cannot be executed: its first line names the interpreter /nope, which is not there"),
        ("#!/bin/sh\n", 0o644, "cannot be executed; chmod +x makes it a program"),
        (None, 0o755, "is a folder; name the program in it"),
    ],
)
def test_a_program_that_cannot_run_is_not_told_to_be_there(
    cli: Cli, machine: Machine, configured: Callable[..., None], tmp_path: Path,
    hosts: str, content: str | None, mode: int, words: str,
) -> None:  # fmt: skip
    program = tmp_path / "engine"
    program.mkdir() if content is None else program.write_text(content)
    program.chmod(mode)
    more = PARALLEL.format(hosts=hosts, devices=0) + f'work_dir = "{tmp_path / "work"}"\n' if hosts else ""
    configured(more=more)
    text = Path("config.toml").read_text()
    Path("config.toml").write_text(text.replace("[vllm.command]", f'[vllm]\nexecutable = "{program}"\n[vllm.command]'))
    checked = cli("check")
    assert f"note: missing: vllm.executable: {program} on {hosts or 'this machine'} {words}" in flat(checked.out), (
        checked
    )
    assert "program is there" not in checked.out


COMMAND = (
    '[optimizer]\nengine = "command"\n[command]\nargv = {argv}\nmodel = "m"\n'
    '[[command.target_field]]\nname = "n"\nmin = 1\nmax = 8\n'
)
PARALLEL = '[parallel]\nenabled = true\nnode_string = "{hosts}"\nnpus_per_node = {devices}\nnodes_per_group = 1\n'


def test_folders_that_are_not_there(cli: Cli, machine: Machine, configured: Callable[..., None], clean: Path) -> None:
    configured(more=f'[deploy]\npath_prefix = "{clean}/none"\n[vllm]\nwork_path = "{clean}/work"')
    ended = cli("check")
    assert ended.code == 0, ended
    assert f"missing: vllm.work_path: there is no folder {clean}/work on this machine" in flat(ended.out)
    assert f"missing: deploy.path_prefix: there is no folder {clean}/none on this machine" in flat(ended.out)
    (clean / "none").mkdir()
    (clean / "work").mkdir()
    assert "missing" not in cli("check").out


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
    ended = cli("check")
    assert "program and 2 devices are there" in flat(ended.out), ended
    machine.program("nvidia-smi", "#!/bin/sh\necho '0, 81559, Enabled'\n")  # divided: nobody can count
    assert cli("check").code == 0
    machine.program("nvidia-smi", "#!/bin/sh\necho 'NVIDIA-SMI has failed'; exit 9\n")
    ended = cli("check")
    assert ended.code == 0, ended
    assert "not checked: the devices of group0 on 127.0.0.1, as neither nvidia-smi nor npu-smi" in flat(ended.out)


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


@pytest.mark.parametrize("line", ["IdentitiesOnly ja", "ServerAliveInterval soon", ""])
def test_a_mistake_in_the_ssh_configuration_is_one_of_the_check(
    cli: Cli, machine: Machine, configured: Callable[..., None], clean: Path, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    monkeypatch.setenv("HOME", str(clean))
    (clean / ".ssh").mkdir()
    (clean / ".ssh" / "config").write_text(f"Host *\n  ConnectTimeout 1\n  {line}\n")
    (clean / ".ssh" / "config").chmod(0o600 if line else 0o666)
    configured("--block-size 15", more=PARALLEL.format(hosts="n1.invalid", devices=8))
    ended = cli("check")
    assert ended.code == 2, ended
    said = f"line 3: '{line.split()[1]}'" if line else "bad owner or permissions"
    assert flat(ended.err).count(said) == 1
    assert "n1.invalid cannot be reached: " in flat(ended.err)


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


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("Prot 22", "line 2: 'Prot' is not a keyword of ssh_config; did you mean Port?"),
        ("LogLevel LOUD", "line 2: 'LOUD' is no value of LogLevel"),
        ("ProxyJump me@j:99999", "line 2: ProxyJump 'me@j:99999'"),
        ("Port 7", ""),
    ],
)
def test_the_ssh_configuration_is_read_for_an_engine_that_is_asked_nothing(
    cli: Cli, machine: Machine, clean: Path, line: str, said: str
) -> None:
    (machine.home / ".ssh").mkdir(parents=True)
    (machine.home / ".ssh" / "config").write_text(f"Host n1.invalid\n  {line}\n")
    (clean / "hosts").write_text("n1.invalid slots=0\n")
    (clean / "config.toml").write_text('[optimizer]\nengine = "simulated"\n')
    ended = cli("check", "--hostfile", "hosts", "--nodes-per-group", "1")
    assert ended.code == (2 if said else 0), ended
    assert (said in flat(ended.err)) if said else "cannot be reached" not in flat(ended.out)
    assert not said or "n1.invalid cannot be reached: " in flat(ended.err)
