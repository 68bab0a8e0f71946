#!/bin/sh
# vLLM on all nodes of a service group; with start = "every_node" swarmtune runs this on each of them (docs/cluster.md).
# It is told who it is: SWARMTUNE_HOSTS, _NODES, _RANK, _MASTER, _PORT, _DEVICES, and SWARMTUNE_CONFIG, the setting as JSON.
#   MODEL           path or name of the model
#   VLLM_BACKEND    mp (default): vLLM's own processes meet at the master; ray: a Ray cluster is made for each service
set -eu
: "${MODEL:?set MODEL to the path of the model}"
value() { python3 -c 'import json, sys; print(json.load(open(sys.argv[1])).get(sys.argv[2], sys.argv[3]))' "$SWARMTUNE_CONFIG" "$@"; }
per_node=$(printf '%s' "$SWARMTUNE_DEVICES" | tr ',' '\n' | grep -c . || true)
[ "$per_node" -gt 0 ] || { echo "this node has no devices: give slots=N in the hostfile" >&2; exit 2; }
set -- serve "$MODEL" --tensor-parallel-size "$per_node" --pipeline-parallel-size "$SWARMTUNE_NODES" \
  --max-num-seqs "$(value max_num_seqs 256)" --max-num-batched-tokens "$(value max_num_batched_tokens 8192)" "$@"

if [ "${VLLM_BACKEND:-mp}" = ray ]; then
  head="$SWARMTUNE_MASTER:$((SWARMTUNE_PORT + 1))"
  if [ "$SWARMTUNE_RANK" -ne 0 ]; then
    exec ray start --address "$head" --block
  fi
  ray start --head --port "$((SWARMTUNE_PORT + 1))" --node-ip-address "$SWARMTUNE_MASTER"
  exec env RAY_ADDRESS="$head" vllm "$@" --distributed-executor-backend ray --host "$SWARMTUNE_MASTER" --port "$SWARMTUNE_PORT"
fi
set -- "$@" --nnodes "$SWARMTUNE_NODES" --node-rank "$SWARMTUNE_RANK" --master-addr "$SWARMTUNE_MASTER"
if [ "$SWARMTUNE_RANK" -ne 0 ]; then
  exec vllm "$@" --headless
fi
exec vllm "$@" --host "$SWARMTUNE_MASTER" --port "$SWARMTUNE_PORT"
