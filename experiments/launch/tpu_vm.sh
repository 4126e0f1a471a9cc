#!/bin/bash
# igpt train on all workers of a Cloud TPU VM slice, over ssh:
#
#   export TPU=my-tpu ZONE=us-east5-b
#   experiments/launch/tpu_vm.sh start experiments/digits.py --workdir /shared/runs/digits [--KEY VALUE ...]
#   experiments/launch/tpu_vm.sh status     # the last lines of every worker's log
#   experiments/launch/tpu_vm.sh stop       # SIGTERM: all save at one step and end; the same start continues
#
# From the environment: IGPT, the igpt of the workers (default igpt; ssh activates no environment, so better a full
# path), FOLDER, where they run it (default: the home directory) and keep igpt.log and igpt.pid, and MAX_RESTARTS, how
# often a run is restarted after a hang or a lost process (default 100). LIBTPU_INIT_ARGS
# is passed on where it is set; without it, igpt chooses the flags of the TPU compiler. A worker whose machine is gone is not replaced.

set -euo pipefail

fail() {
    echo "tpu_vm.sh: $1" >&2
    exit 2
}

[[ -n ${TPU-} && -n ${ZONE-} ]] || fail "TPU and ZONE are not set; see the head of this file"
command -v gcloud > /dev/null || fail "no gcloud on PATH"

quoted() { # for any shell; what printf %q makes of a line break, only bash understands
    local word
    for word; do
        printf " '%s'" "${word//\'/\'\\\'\'}"
    done
}

on_all_workers() {
    gcloud compute tpus tpu-vm ssh "$TPU" --zone="$ZONE" --worker=all --command="cd$(quoted "${FOLDER:-.}") && { $1
}"
}

# One of these runs on each worker. A lost process ends all others with 75, so all come back here, and find each other.
# shellcheck disable=SC2016 # the workers expand it
supervise='
echo $$ > igpt.pid
trap "stopped=yes; kill -TERM \$child" TERM
for ((restarts = 0; ; restarts++)); do
    "$1" train "${@:3}" &
    child=$!
    while code=0; wait $child || code=$?; kill -0 $child 2> /dev/null; do :; done # the trap ends a wait early
    case $code in 75 | 13[1-9]) ;; *) break ;; esac
    ((restarts < $2)) || break
    echo "exit code $code: once more"
    sleep 5
    [[ -z ${stopped-} ]] || break
done
rm -f igpt.pid
echo "exit code $code"
'

case ${1-} in
    start)
        shift
        (($#)) || fail "no experiment file, such as experiments/digits.py"
        words=$(quoted "$supervise" supervise "${IGPT:-igpt}" "${MAX_RESTARTS:-100}" "$@")
        libtpu=""
        [[ -z ${LIBTPU_INIT_ARGS+set} ]] || libtpu="export LIBTPU_INIT_ARGS=$(quoted "$LIBTPU_INIT_ARGS" | cut -c2-)"
        on_all_workers "
if [ -e igpt.pid ] && kill -0 \$(cat igpt.pid) 2> /dev/null; then echo 'already running'; exit 1; fi
command -v$(quoted "${IGPT:-igpt}") > /dev/null || { echo 'no igpt here; set IGPT'; exit 2; }
$libtpu
setsid nohup bash -c$words >> igpt.log 2>&1 < /dev/null &"
        ;;
    stop) on_all_workers "if [ -e igpt.pid ]; then kill -TERM \$(cat igpt.pid); else echo 'not running'; fi" ;;
    status) on_all_workers "tail -n 3 igpt.log; if [ -e igpt.pid ]; then echo running; else echo 'not running'; fi" ;;
    *) fail "start, stop or status?" ;;
esac
