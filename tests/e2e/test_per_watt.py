"""Studies per watt, with an exporter of power as a real server beside them."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.e2e.conftest import QUICK, Workplace

pytestmark = pytest.mark.e2e
TEXT = b'# TYPE DCGM_FI_DEV_POWER_USAGE gauge\nDCGM_FI_DEV_POWER_USAGE{gpu="0",UUID="GPU-a"} 250\n'


class Exporter(BaseHTTPRequestHandler):
    text = TEXT

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.text)

    def log_message(self, *_: object) -> None:
        pass


class Mute(Exporter):
    text = b'DCGM_FI_DEV_GPU_UTIL{gpu="0"} 7\n'


@pytest.fixture
def exporter(request: pytest.FixtureRequest) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), getattr(request, "param", Exporter))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/metrics"
    server.shutdown()
    thread.join()
    server.server_close()


def config(exporter: str) -> str:
    per_watt = QUICK.replace("[objective]", '[objective]\nname = "throughput"\nper = "watt"')
    return per_watt.replace("[loadgen]", f'[loadgen]\ngpu_telemetry = "{exporter}"')


def test_a_study_per_watt_ends_with_a_result(workplace: Workplace, exporter: str) -> None:
    workplace.config(config(exporter))
    result = workplace.tune("--evaluations", "2")
    folders = sorted(workplace.study.glob("attempts/*/load-0"))
    measured = [json.loads((folder / "measurement.json").read_text()) for folder in folders]
    assert [m["metrics"]["power_watts"] for m in measured] == [250.0] * len(measured)
    baseline = json.loads((folders[0] / "measurement.json").read_text())["metrics"]["output_throughput"]
    assert result["baseline"]["score"]["value"] == pytest.approx(baseline / 250)
    rows = [json.loads(line) for line in (folders[0] / "devices.jsonl").read_text().splitlines()]
    assert {"DCGM_FI_DEV_POWER_USAGE", "host_memory_used_bytes"} <= {row["name"] for row in rows}
    told = {row["name"] for row in json.loads((folders[0] / "telemetry.json").read_text())}
    assert "vllm:generation_tokens_total" in told, "the engine's own metrics, without an option"


@pytest.mark.parametrize("exporter", [Mute], indirect=True)
def test_without_a_reading_the_run_ends_and_says_who_must_act(workplace: Workplace, exporter: str) -> None:
    workplace.config(config(exporter))
    code, _, err = workplace.run()
    assert code != 0
    assert "no exporter of gpu_telemetry tells the power of a device of 127.0.0.1" in err
    assert "Give the address of an exporter" in err
    assert len(list(workplace.study.glob("attempts/*/load-0"))) == 1, "it ends with the first measurement"


def test_without_a_source_of_power_nothing_starts(workplace: Workplace) -> None:
    nodes = '[parallel]\nenabled = true\nport = 8000\n[[parallel.service_groups]]\ngroup_id = "g"\n'
    nodes += '[[parallel.service_groups.nodes]]\nhost = "192.0.2.7"\n'
    workplace.config(f"{config('x').replace('gpu_telemetry', '#')}\n{nodes}")
    code, _, err = workplace.run()
    assert code == 2
    assert "192.0.2.7: not this machine, and gpu_telemetry names no exporter there" in err
    assert not (workplace.folder / "swarmtune-studies").exists()
