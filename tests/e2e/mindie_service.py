"""A stand-in for MindIE's daemon that really serves: reads config.json as the daemon does, then becomes the simulator."""

import json
import os
import sys
from pathlib import Path

config = json.loads(Path(sys.argv[1]).read_text())
schedule = config["BackendConfig"]["ScheduleConfig"]
model = config["BackendConfig"]["ModelDeployConfig"]["ModelConfig"][0]["modelName"]
print("Daemon start success!", flush=True)
os.execv(
    sys.executable,
    [
        *(sys.executable, "-m", "swarmtune.simulator", "--model", model),
        *("--host", config["ServerConfig"]["ipAddress"], "--port", str(config["ServerConfig"]["port"])),
        *("--max-num-seqs", str(schedule["maxBatchSize"]), "--max-num-batched-tokens", "2048"),
    ],
)
