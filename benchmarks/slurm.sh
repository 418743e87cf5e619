#!/usr/bin/env bash
# Runs a batch through SLURM on one machine, to see that workflow/profiles/slurm works: a munge, a controller and a node on
# loopback, in a temporary folder, ended afterwards. As root, on Debian or Ubuntu:
#
#   apt-get install munge slurmctld slurmd slurm-client
#   benchmarks/slurm.sh cpu16 [options of python -m dsrkit.batch]
#
# The node has no GPU, so none is asked for. With KILL=dsr_training every process of that job is killed once, as if its node had
# died, when it has saved its first epoch: it is submitted again and goes on from there. DSRKIT_ROOT names another root.
set -euo pipefail
cd "${DSRKIT_ROOT:-$(dirname "$0")/..}"
here=$(mktemp -d /tmp/one-node-slurm.XXXX)
conf=/etc/slurm/slurm.conf # where jobs look for it
[ ! -e $conf ] || { echo "Expected a machine without SLURM of its own, got $conf. Use --profile slurm there." >&2; exit 1; }
ln -s "$here/slurm.conf" $conf
mkdir -p "$here"/{state,spool}
dd if=/dev/urandom of="$here/munge.key" bs=1 count=1024 status=none
chmod 400 "$here/munge.key"
chmod 755 "$here"
cat > "$here/slurm.conf" <<CONF
ClusterName=one
SlurmctldHost=$(hostname -s)(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$here/munge.socket
CredType=cred/munge
StateSaveLocation=$here/state
SlurmdSpoolDir=$here/spool
SlurmctldPidFile=$here/slurmctld.pid
SlurmdPidFile=$here/slurmd.pid
SlurmctldLogFile=$here/slurmctld.log
SlurmdLogFile=$here/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
NodeName=$(hostname -s) NodeAddr=127.0.0.1 CPUs=$(nproc) RealMemory=$(free -m | awk '/^Mem/ {print $2}') State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
CONF

finish() {
  scancel --user="$(id -un)" 2> /dev/null || true
  for pid in slurmd slurmctld munged; do kill "$(cat "$here/$pid.pid" 2> /dev/null)" 2> /dev/null || true; done
  sleep 1
  rm -rf "$here" $conf
}
trap finish EXIT

munged --force --key-file="$here/munge.key" --socket="$here/munge.socket" --pid-file="$here/munged.pid" \
  --log-file="$here/munged.log" --seed-file="$here/munged.seed"
slurmctld
slurmd
for _ in {1..60}; do sinfo --noheader --format=%T 2> /dev/null | grep -q idle && break || sleep 1; done
sinfo

if [ -n "${KILL:-}" ]; then
  (
    until grep -qs '"epoch": 1' "outputs/$1/"*"_$KILL.state.pt.json"; do sleep 1; done
    job=$(squeue --noheader --states=R --format="%i %k" | awk -v rule="$KILL" '$0 ~ rule {print $1; exit}')
    echo "--- killing job $job ($KILL), which has saved an epoch"
    scontrol listpids "$job" | awk 'NR > 1 && $1 > 0 {print $1}' | xargs kill -KILL
  ) &
fi

python -m dsrkit.batch "$@" --profile slurm --slurm-status-command squeue --slurm-init-seconds-before-status-checks 5 \
  --default-resources mem_mb=0 runtime=600 --set-threads {data_migration,dsr_training,edgeface_finetune,cyclic_cycle,evaluation}="$(nproc)" \
  --set-resources {data_migration,dsr_training,edgeface_finetune,cyclic_cycle,evaluation}:gpu=0
