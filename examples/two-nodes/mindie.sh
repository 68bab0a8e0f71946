#!/bin/sh
# MindIE on all nodes of a service group; with start = "every_node" swarmtune runs this on each of them (docs/cluster.md).
#   MIES_INSTALL_PATH   where MindIE Service is installed (its conf/config.json is the base)
#   RANKTABLEFILE       the rank table of these nodes, with the master as rank 0
# The setting (SWARMTUNE_CONFIG, JSON) has dotted paths as names: {"BackendConfig.ScheduleConfig.maxBatchSize": 200}.
set -eu
: "${MIES_INSTALL_PATH:?set MIES_INSTALL_PATH to the folder of MindIE Service}"
: "${RANKTABLEFILE:?set RANKTABLEFILE to the rank table of the nodes of this group}"
MIES_CONFIG_JSON_PATH="$PWD/mindie-config.json"
MIES_CONTAINER_IP=$(printf '%s' "$SWARMTUNE_HOSTS" | cut -d, -f"$((SWARMTUNE_RANK + 1))")
export MIES_CONFIG_JSON_PATH MIES_CONTAINER_IP RANKTABLEFILE
umask 027
python3 - "$MIES_INSTALL_PATH/conf/config.json" "$SWARMTUNE_CONFIG" "$MIES_CONFIG_JSON_PATH" "$SWARMTUNE_PORT" "$SWARMTUNE_NODES" <<'PY'
import json, sys
base, setting, target, port, nodes = sys.argv[1:]
config = json.load(open(base))
for path, value in json.load(open(setting)).items():
    *way, name = path.split(".")
    part = config
    for step in way:
        part = part[int(step)] if isinstance(part, list) else part[step]
    part[name] = value
config["ServerConfig"]["port"] = int(port)
config["BackendConfig"]["multiNodesInferEnabled"] = int(nodes) > 1
json.dump(config, open(target, "w"), indent=2)
PY
exec "$MIES_INSTALL_PATH/bin/mindieservice_daemon"
