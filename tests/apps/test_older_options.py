"""Options that scripts for the older tuner give."""

from __future__ import annotations

import json

import pytest
from cli_runs import Cli

TWO_NODES = ("--nodes", "n0,n1", "--npus-per-node", "1", "--executor", "ssh")


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (("-d", "single"), ""),
        (("--pd", "competition"), ""),
        (("-d", "multiple"), "-d multiple has no effect: each service runs on one machine; name the machines"),
        (("--deploy_policy", "multiple", *TWO_NODES), ""),
        (("--deploy-policy", "single", *TWO_NODES), "-d single has no effect: the groups that are given have several"),
        (("--pd", "disaggregation"), "--pd disaggregation has no effect: engines start prefill and decode together"),
    ],
)
@pytest.mark.parametrize("command", ["check", "optimizer"])
def test_they_are_taken_with_a_hint_where_they_have_no_effect(
    cli: Cli, command: str, arguments: tuple[str, ...], hint: str
) -> None:
    dry = ("--dry-run",) if command == "optimizer" else ()
    ended = cli(command, "-e", "simulated", *arguments, *dry)
    assert ended.code == 0, ended.err
    text = " ".join(ended.out.split())  # lines are broken to the terminal's width
    assert (text.count("note: -d"), text.count("note: --pd")) == (hint.startswith("-d"), hint.startswith("--pd"))
    assert hint in text


def test_programs_get_the_hint_too(cli: Cli) -> None:
    ended = cli("optimizer", "-e", "simulated", "--pd", "disaggregation", "--dry-run", "--json")
    assert "--pd disaggregation has no effect" in " ".join(json.loads(ended.out)["notices"])


def test_other_values_are_refused(cli: Cli) -> None:
    ended = cli("check", "-e", "simulated", "-d", "many")
    assert (ended.code, "invalid choice: 'many'" in ended.err) == (2, True)


@pytest.mark.parametrize(
    ("command", "way"), [("serve", "services are started by swarmtune optimizer"), ("optix", "swarmtune optimizer")]
)
def test_commands_of_the_older_tuner_name_the_way_out(cli: Cli, command: str, way: str) -> None:
    ended = cli(command, "-i", "profile", "-o", "model")
    assert (ended.code, ended.out, ended.err.count("\n")) == (2, "", 1)
    assert way in ended.err
