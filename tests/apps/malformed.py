"""Malformed configurations, made by hand: (content of config.toml, words that the message must hold)."""

from __future__ import annotations

HEAD = '[optimizer]\nengine = "simulated"\n'


def field(**keys: str) -> str:
    """A configuration with one sound field and one made of these TOML values."""
    lines = "\n".join(f"{key} = {value}" for key, value in keys.items())
    return f"""{HEAD}
[[simulated.target_field]]
name = "sound"
config_position = "--max-num-seqs"
min = 1
max = 9

[[simulated.target_field]]
{lines}
"""


def product_of(dtype: str, param: str) -> str:
    """A field called x that is computed from others."""
    return range_of(dtype=f'"{dtype}"', dtype_param=f"{{{param}}}")


def range_of(**keys: str) -> str:
    """A field called x with a range, changed by these values."""
    return field(**{"name": '"x"', "min": "1", "max": "9", **keys})


MALFORMED: list[tuple[str, str, str]] = [
    # --- not TOML at all
    ("open string", 'a = "', "not valid TOML"),
    ("no value", "a =", "Invalid value"),
    ("twice", "iters = 1\niters = 2", "Cannot overwrite a value"),
    ("table twice", "[optimizer]\n[optimizer]", "optimizer"),
    ("control character", 'output = "\x01"', "line 1"),
    ("json", '{"optimizer": {}}', "line 1"),
    ("yaml", "optimizer:\n  engine: vllm", "line 1"),
    ("number of 5000 digits", f"iters = {'9' * 5000}", "not valid TOML"),
    ("5000 brackets", f"iters = {'[' * 5000}", "not valid TOML"),
    ("300 lists", f"constraints = {'[' * 300}{']' * 300}", "deep"),
    ("5000 tables", f"[{'.'.join(['a'] * 5000)}]\nb = 1", "deep"),
    ("surrogate", 'output = "\\ud800"', "line 1"),
    # --- keys
    ("key in another case", "[Optimizer]\nseed = 1", "Optimizer: unknown key; did you mean optimizer?"),
    ("unknown key", "n_partikles = 5", "n_partikles: unknown key; did you mean n_particles"),
    ("unknown table", "[optimiser]\nseed = 1", "optimiser: unknown key; did you mean optimizer"),
    ("unknown key in table", "[optimizer]\nevaluation = 5", "optimizer.evaluation: unknown key"),
    ("unknown key in engine", "[simulated]\nmodle = 'x'", "simulated.modle: unknown key; did you mean model"),
    ("unknown key in field", field(name='"x"', minimum="1"), "simulated.target_field.1.minimum"),
    ("key with newline", '"a\\nb" = 1', "unknown key"),
    ("key with escape", '"\\u001b[31m" = 1', "unknown key"),
    ("empty key", '"" = 1', "unknown key"),
    ("unicode key", '"évaluations" = 1', "évaluations: unknown key"),
    # --- wrong types
    ("text for number", 'n_particles = "many"', "n_particles"),
    ("number for text", "output = 5", "output"),
    ("list for text", "output = []", "output"),
    ("table for number", "[n_particles]\na = 1", "n_particles"),
    ("number for table", "optimizer = 5", "optimizer"),
    ("list for table", "optimizer = []", "optimizer"),
    ("fraction for whole", "[optimizer]\nevaluations = 1.5", "optimizer.evaluations"),
    ("text for boolean", '[optimizer]\nbackup = "perhaps"', "optimizer.backup"),
    ("date for number", "iters = 2026-01-01", "iters"),
    ("table for fields", "[simulated.target_field]\nname = 'x'", "simulated.target_field"),
    ("text for rules", 'constraints = "a > b"', "constraints"),
    ("numbers for rules", "constraints = [1]", "constraints.0"),
    ("number for slo", "[objective]\nslo = 5", "objective.slo"),
    ("text in slo", "[objective.slo]\np95_ttft_ms = 'fast'", "objective.slo.p95_ttft_ms"),
    ("number for env", "[simulated.env]\nA = 5", "simulated.env.A"),
    ("list in user settings", "[[optimizer.user_settings]]\na = [1]", "optimizer.user_settings.0.a"),
    # --- out of range
    ("no evaluations", "[optimizer]\nevaluations = 0", "optimizer.evaluations"),
    ("negative evaluations", "[optimizer]\nevaluations = -3", "optimizer.evaluations"),
    ("too many evaluations", "[optimizer]\nevaluations = 1000000000", "optimizer.evaluations"),
    ("one particle", "n_particles = 1", "n_particles: a swarm needs at least 2"),
    ("thousand particles", "n_particles = 1000", "n_particles"),
    ("no timeout", "[optimizer]\ntimeout = 0", "optimizer.timeout"),
    ("timeout inf", "[optimizer]\ntimeout = inf", "optimizer.timeout"),
    ("timeout nan", "[optimizer]\ntimeout = nan", "optimizer.timeout"),
    ("timeout 1e308", "[optimizer]\ntimeout = 1e308", "optimizer.timeout"),
    ("negative seed", "[optimizer]\nseed = -1", "optimizer.seed"),
    ("seed of 70 digits", f"[optimizer]\nseed = {'9' * 70}", "optimizer.seed"),
    ("many groups", "[optimizer]\ngroups = 1000", "optimizer.groups"),
    ("success rate 2", "[objective]\nmin_success_rate = 2", "objective.min_success_rate"),
    ("success rate nan", "[objective]\nmin_success_rate = nan", "objective.min_success_rate"),
    ("ttft_slo 0", "ttft_slo = 0", "ttft_slo"),
    ("ttft_slo nan", "ttft_slo = nan", "ttft_slo"),
    ("penalty inf", "ttft_penalty = inf", "ttft_penalty"),
    ("c1 9", "[pso_options]\nc1 = 9", "pso_options.c1"),
    ("start time inf", "wait_start_time = inf", "wait_start_time"),
    ("sample size 0", "sample_size = 0", "sample_size"),
    ("load rate inf", "[loadgen]\nrequest_rate = inf", "loadgen.request_rate"),
    ("load length nan", "[loadgen]\nisl = nan", "loadgen.isl"),
    ("load too long", HEAD + "[loadgen]\nbenchmark_duration = 1e300", "loadgen.benchmark_duration"),
    ("load as long as an evaluation", "particles_time_out = 9\n" + HEAD + "[loadgen]\nbenchmark_duration = 9", "do not fit"),
    ("requests of 40 digits", HEAD + f"[loadgen]\nrequest_count = {'9' * 40}", "loadgen.request_count"),
    # --- choices
    ("algorithm", '[optimizer]\nalgorithm = "swarn"', "optimizer.algorithm: There is no search algorithm named 'swarn'"),
    ("engine", '[optimizer]\nengine = "vlm"', "Did you mean 'vllm'"),
    ("benchmark", '[optimizer]\nbenchmark = ""', "optimizer.benchmark"),
    ("objective", '[objective]\nname = "fastest"', "objective.name"),
    ("level", 'log_level = "LOUD"', "log_level"),
    ("strategy", '[pso_strategy]\nw = "up"', "pso_strategy.w"),
    ("topology", '[pso_options]\ntopology = "star"', "pso_options.topology"),
    ("endpoint", '[loadgen]\nendpoint_type = "grpc"', "loadgen.endpoint_type"),
    ("weights", "[objective.weights]\nspeed = 1", "objective.weights.speed"),
    ("no such promise", HEAD + "[objective.slo]\np42_ttft_ms = 5", "objective.slo.p42_ttft_ms"),
    ("promise of 0", HEAD + "[objective.slo]\np95_ttft_ms = 0", "objective.slo.p95_ttft_ms"),
    ("promise inf", HEAD + "[objective.slo]\np95_ttft_ms = inf", "objective.slo.p95_ttft_ms"),
    ("goodput without promise", HEAD + "[objective]\nslo = {}", "objective.slo: goodput needs an SLO"),
    ("load start outside", HEAD + "[load_search]\nlow = 8", "load_search: start 4 must lie between"),
    ("fractional users", HEAD + "[load_search]\nlow = 1.5", "load_search: concurrency is a whole number"),
    # --- files and addresses
    ("output in a file", HEAD.replace("[", 'output = "config.toml/x"\n[', 1), "output: no folder can be made"),
    ("output of nobody", HEAD.replace("[", 'output = "~nobody-of-that-name/x"\n[', 1), "output: "),
    ("output with NUL", 'output = "a\\u0000b"', "output: holds a NUL"),
    ("output too long", HEAD.replace("[", f'output = "{"x" * 5000}"\n[', 1), "output: "),
    ("study in mysql", HEAD + 'study = "mysql://u:hunter2@h/d"', "optimizer.study: 'mysql' is not supported"),
    ("study with bad port", HEAD + 'study = "postgresql://u:hunter2@h:x/d"', "optimizer.study: not a database address"),
    ("study empty", HEAD + 'study = ""', "optimizer.study"),
    ("study two slashes", HEAD + 'study = "sqlite://x"', "optimizer.study"),
    # --- fields
    ("no name", field(min="1", max="2"), "simulated.target_field.1.name"),
    ("empty name", range_of(name='""'), "simulated.target_field.1.name"),
    ("name with blank", range_of(name='"a b"'), "simulated.target_field: name 'a b'"),
    ("name with newline", range_of(name='"a\\nb"'), "simulated.target_field: name"),
    ("name with =", range_of(name='"PATH=x"'), "simulated.target_field: name"),
    ("name of digits", range_of(name='"1"'), "simulated.target_field: name '1'"),
    ("name in Greek", range_of(name='"\u03b1"'), "simulated.target_field: name"),
    ("name of 10000", range_of(name=f'"{"x" * 10000}"'), "simulated.target_field: name"),
    ("name twice", range_of(name='"sound"'), "sound: given more than once"),
    ("position with escape", range_of(config_position='"a\\u001b[2J"'), "x: config_position"),
    ("position with blank flag", range_of(config_position='"--a b"'), "x: config_position '--a b' is not a flag"),
    ("position dash", range_of(config_position='"-"'), "x: config_position '-' is not a flag"),
    ("position empty", range_of(config_position='""'), "simulated.target_field.1.config_position"),
    ("position a method", range_of(config_position='"POST settings"'), "is not a method and a path like POST /settings"),
    ("position with spaces", range_of(config_position='"PUT /a b"'), "is not a method and a path like POST /settings"),
    ("position that it lacks", range_of(config_position='"POST /other"'), "while it runs; it takes max_num_seqs by POST"),
    ("position a path", range_of(config_position='"a.b.c"'), "has no file to put it"),
    ("dtype", range_of(dtype='"integer"'), "x: dtype 'integer' is not one of int, float"),
    ("dtype number", range_of(dtype="5"), "simulated.target_field.1.dtype"),
    ("no range", field(name='"x"'), "x: dtype int needs min and max"),
    ("upside down", range_of(min="10"), "x: min 10.0 is larger than max 9.0"),
    ("nan", range_of(min="nan"), "simulated.target_field.1.min: nan"),
    ("inf", range_of(max="inf"), "simulated.target_field.1.max: inf"),
    ("both inf", range_of(min="inf", max="inf"), "simulated.target_field.1.max: inf"),
    ("1e308", range_of(max="1e308"), "x: max must lie between"),
    ("400 digits", range_of(max="9" * 400), "simulated.target_field.1.max"),
    ("nothing whole", range_of(min="1.2", max="1.8"), "x: no whole number lies between"),
    ("log of 0", range_of(min="0", log="true"), "x: log = true needs"),
    ("log of bool", range_of(dtype='"bool"', log="true"), "x: log = true needs"),
    ("value outside", range_of(value="10"), "x: value 10 is outside its range (1.0 to 9.0)"),
    ("value text", range_of(value='"five"'), "x: value 'five' is not a number"),
    ("value boolean", range_of(value="true"), "x: value True is not a number"),
    ("value list", range_of(value="[1]"), "simulated.target_field.1.value"),
    ("constant nan", range_of(constant="nan"), "simulated.target_field.1.constant: nan"),
    ("constant 1e300", range_of(constant="1e300"), "x: constant must lie between"),
    ("constant table", range_of(constant="{a = 1}"), "simulated.target_field.1.constant"),
    ("min boolean list", range_of(min="[true]"), "simulated.target_field.1.min"),
    ("enum of nothing", range_of(dtype='"enum"', dtype_param="[]"), "x: dtype enum needs"),
    ("enum text", range_of(dtype='"enum"', dtype_param='"ab"'), "x: dtype enum needs"),
    ("enum twice", range_of(dtype='"enum"', dtype_param="[1, 1.0]"), "list of different values"),
    ("enum of lists", range_of(dtype='"enum"', dtype_param="[[1], [2]]"), "strings, numbers or booleans"),
    ("enum of nan", range_of(dtype='"enum"', dtype_param="[nan, nan]"), "simulated.target_field.1.dtype_param.0: nan"),
    ("enum of NUL", range_of(dtype='"enum"', dtype_param='["a\\u0000", "b"]'), "dtype_param.0: holds a NUL"),
    ("enum of 200000", range_of(dtype='"enum"', dtype_param=str(list(range(200_000)))), "at most 100000 values"),
    ("enum value", range_of(dtype='"enum"', dtype_param="[1, 2]", value="3"), "value 3 is outside its range (one of 1, 2)"),
    ("range without step", range_of(dtype='"range"'), "x: dtype range needs dtype_param = the step"),
    ("range step 0", range_of(dtype='"range"', dtype_param="0"), "x: dtype range needs"),
    ("range step true", range_of(dtype='"range"', dtype_param="true"), "x: dtype range needs"),
    ("range of 1e12", range_of(dtype='"range"', max="1e12", dtype_param="1"), "too many values"),
    ("range step 1e-300", range_of(dtype='"range"', dtype_param="1e-300"), "too many values"),
    ("ratio of nobody", range_of(dtype='"ratio"', dtype_param='"y"'), "x: dtype_param names 'y', which is not a field"),
    ("ratio of itself", range_of(dtype='"ratio"', dtype_param='"x"'), "x: depends on itself"),
    ("ratio of 5", range_of(dtype='"ratio"', dtype_param="5"), "x: dtype ratio needs"),
    ("ratio value", range_of(dtype='"ratio"', dtype_param='"sound"', value='"half"'), "x: value 'half' is not a number"),
    ("share without", range_of(dtype='"share"'), "x: dtype share needs"),
    ("env without", range_of(dtype='"env"'), "x: dtype env needs"),
    ("factories text", range_of(dtype='"factories"', dtype_param='"sound"'), "x: dtype factories needs"),
    ("factories prime", product_of('factories', 'target_name = "sound", product = 0'), "product must be"),
    ("factories huge", product_of('factories', 'target_name = "sound", product = 9999999999'), "too large"),
    ("factories half", product_of('factories', 'target_name = "sound", product = 1.5'), "product must be"),
    ("factories typing error", product_of('factories', 'target_nam = "sound", product = 8'), "x: dtype"),
    ("times nan", product_of('times', 'target_name = "sound", product = nan'), "product: nan"),
    ("times text", product_of('times', 'target_name = "sound", product = "2"'), "product must be a number"),
    ("ternary of one", product_of('ternary_times', 'target_names = ["sound"], product = 2'), "names 2"),
    ("ternary twice", product_of('ternary_times', 'target_names = ["sound", "sound"], product = 2'), "names 2"),
    (
        "ternary bound",
        range_of(dtype='"ternary_factories"', dtype_param='{target_names = ["sound", "x"], product = 2, min_value = "a"}'),
        "min_value must be a number",
    ),
    (
        "priority",
        range_of(
            dtype='"ternary_factories"',
            dtype_param='{target_names = ["sound", "y"], product = 2, priority_policy = "first"}',
        ),
        "priority_policy is 'balanced' or 'fixed'",
    ),
    ("all constant", range_of().replace("min = 1\nmax = 9", "constant = 1"), "no parameter is left to search"),
    # --- rules
    ("rule no expression", 'constraints = ["a >"]\n' + HEAD, "constraints: 'a >'"),
    ("rule unknown name", 'constraints = ["max_num_seq < 5"]\n' + HEAD, "did you mean max_num_seqs"),
    ("rule with call", "constraints = [\"__import__('os').system('true')\"]\n" + HEAD, "is not allowed here"),
    ("rule with power", 'constraints = ["9 ** 9 ** 9 > 1"]\n' + HEAD, "is not allowed here"),
    ("rule of lists", 'constraints = ["[1] * 99999999999 == 1"]\n' + HEAD, "the baseline breaks it"),
    ("rule too deep", f'constraints = ["{"-" * 300}1 > 0"]\n' + HEAD, "inside each other"),
    ("rule of 200 brackets", f'constraints = ["{"(" * 240}1{")" * 240} > 0"]\n' + HEAD, "constraints"),
    ("rule too long", f'constraints = ["{"1 + " * 300}1 > 0"]\n' + HEAD, "longer than 500"),
    ("rule baseline breaks", 'constraints = ["max_num_seqs > 100"]\n' + HEAD, "the baseline breaks it"),
    ("rule with NUL", 'constraints = ["a\\u0000"]\n' + HEAD, "constraints.0: holds a NUL"),
    ("rule with slip", 'constraints = ["1or 2"]\n' + HEAD, "not an expression"),
    ("rule empty", 'constraints = [""]\n' + HEAD, "constraints"),
    # --- user settings
    ("user setting unknown", HEAD + "user_settings = [{seqs = 4}]", "optimizer.user_settings.1: 'seqs' is not a field"),
    ("user setting outside", HEAD + "user_settings = [{max_num_seqs = 9999}]", "max_num_seqs = 9999 is outside"),
    ("user setting breaks rule", HEAD + "user_settings = [{max_num_seqs = 99, max_num_batched_tokens = 16}]", "the rule"),
    # --- engines
    ("vllm without model", '[optimizer]\nengine = "vllm"', "vllm.command.model: '' is not a model"),
    ("vllm port", '[optimizer]\nengine = "vllm"\n[vllm.command]\nmodel = "m"\nport = 99999', "vllm.command.port"),
    (
        "vllm ports of groups",
        '[optimizer]\nengine = "vllm"\ngroups = 9\n[vllm.command]\nmodel = "m"\nport = 65530',
        "optimizer.groups: the ports",
    ),
    ("open quote", "[optimizer]\nengine = 'vllm'\n[vllm.command]\nmodel = 'm'\nothers = \"--a 'b\"", "vllm.command.others"),
    ("mindie without file", '[optimizer]\nengine = "mindie"\n[mindie]\nconfig_path = "none.json"', "none.json"),
    ("command without all", '[optimizer]\nengine = "command"', "command.argv: give the program"),
    ("llamacpp without file", '[optimizer]\nengine = "llamacpp"\n[llamacpp]\nmodel_path = "none.gguf"', "none.gguf"),
    (
        "slots that are text",
        """[optimizer]
engine = "llamacpp"
[[llamacpp.target_field]]
name = "n_parallel"
dtype = "enum"
dtype_param = ["few", "many"]
""",
        "llamacpp",
    ),
]  # fmt: skip
