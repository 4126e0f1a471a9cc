#!/bin/bash
# igpt train on Cloud TPU through xpk, which makes the JobSet and, where it is asked to, queues it with Kueue:
#
#   CLUSTER=my-cluster TPU_TYPE=v6e-16 IMAGE=REGION-docker.pkg.dev/PROJECT/igpt/igpt:latest STORAGE=runs \
#       experiments/launch/xpk.sh NAME experiments/digits.py --workdir /runs/digits [--KEY VALUE ...]
#
# STORAGE is what `xpk storage create` or `attach` made: a file system that all hosts share, with the workdir in it.
# XPK_ARGS has further words for xpk, such as "--zone=us-east5-b --project=my-project" or "--dry-run". LIBTPU_INIT_ARGS
# is passed on where it is set; without it, igpt chooses the flags of the TPU compiler.

set -euo pipefail

if (($# < 2)); then
    echo "xpk.sh: usage: xpk.sh NAME EXPERIMENT.py [--workdir DIR] [--KEY VALUE ...]" >&2
    exit 2
fi
for needed in CLUSTER TPU_TYPE IMAGE STORAGE; do
    if [[ -z ${!needed-} ]]; then
        echo "xpk.sh: $needed is not set; see the head of this file" >&2
        exit 2
    fi
done
if ! command -v xpk > /dev/null; then
    echo "xpk.sh: no xpk on PATH; pip install xpk" >&2
    exit 2
fi

libtpu=""
[[ -z ${LIBTPU_INIT_ARGS+set} ]] || libtpu="export LIBTPU_INIT_ARGS=$(printf %q "$LIBTPU_INIT_ARGS"); "

name=$1
shift
read -ra more <<< "${XPK_ARGS-}"

# xpk restarts after 127 to 255 (143: stopped and saved) by itself, after 75 (a hang or a lost process) when told so,
# and ends at 1 and 2. It runs the command under a shell that passes SIGTERM to its child: exec makes that child igpt.
exec xpk workload create \
    --workload="$name" --cluster="$CLUSTER" --tpu-type="$TPU_TYPE" --docker-image="$IMAGE" --storage="$STORAGE" \
    --max-restarts="${MAX_RESTARTS:-100}" --restart-on-exit-codes=75 --termination-grace-period-seconds=300 \
    "${more[@]}" --command="${libtpu}exec igpt train$(printf ' %q' "$@")"
