#!/usr/bin/env bash
# A Slurm on this machine alone, for the tests: .ci/slurm.sh install | start | stop
#
# It needs root, but neither systemd nor cgroups. Its two nodes pretend to more CPUs, memory and GPUs than the machine
# has, so that jobs can ask for what they would ask for on a cluster; a GPU is a device file that behaves as /dev/null.
#   cpu, gpu      the partitions of profiles/slurm/partitions.yaml, on the first node
#   spot, urgent  on the second node, which has room for one job: a job in urgent sends one in spot back into the queue
# A job that uses more memory than it asked for is killed at the next look, one second later at most.
#
# The conf has to stand in the default place, because the official executor hides SLURM_CONF from the steps of a job;
# and it has to go when the controller stops, because with it every start of Snakemake waits nine seconds for one.
set -euo pipefail
FOLDER=${KDMVS_CI_SLURM:-/tmp/kdmvs-ci-slurm}
CONF=/etc/slurm/slurm.conf
GPUS=8

install_packages() {
  if command -v slurmctld > /dev/null && command -v slurmd > /dev/null && command -v munged > /dev/null; then return; fi
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends slurm-wlm munge > /dev/null
}

start() {
  if [ -e "$CONF" ] && ! ours; then
    echo "slurm: $CONF exists; expected none, so as not to touch a Slurm that is not ours" >&2
    exit 1
  fi
  if [ -e "$CONF" ] && pgrep -x slurmctld > /dev/null; then
    echo "slurm: our own is running; expected none, as another run of these tests may use it. '$0 stop' ends it" >&2
    exit 1
  fi
  stop # what is left of one that was killed, or went down with the machine
  trap stop ERR
  mkdir -p "$FOLDER"/{state,spool,log,dev} "${CONF%/*}"
  for i in $(seq 0 $GPUS); do
    [ -e "$FOLDER/dev/nvidia$i" ] || mknod -m 666 "$FOLDER/dev/nvidia$i" c 1 3
  done
  cat > "$CONF" << END
# made by kdmvs .ci/slurm.sh
ClusterName=kdmvs-ci
SlurmctldHost=localhost(127.0.0.1)
SlurmUser=root
SlurmdUser=root
SlurmctldPort=16817
StateSaveLocation=$FOLDER/state
SlurmdSpoolDir=$FOLDER/spool/%n
SlurmctldPidFile=$FOLDER/slurmctld.pid
SlurmdPidFile=$FOLDER/%n.pid
SlurmctldLogFile=$FOLDER/log/slurmctld.log
SlurmdLogFile=$FOLDER/log/%n.log
AuthType=auth/munge
AuthInfo=cred_expire=5
CredType=cred/munge
MpiDefault=none
TaskPlugin=task/none
ProctrackType=proctrack/linuxproc
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerType=sched/backfill
SchedulerParameters=sched_min_interval=0,batch_sched_delay=0,bf_interval=5
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=5
MinJobAge=3600
MaxJobCount=20000
GresTypes=gpu
NodeName=ci0 NodeHostname=localhost NodeAddr=127.0.0.1 Port=16818 CPUs=16 RealMemory=256000 Gres=gpu:$GPUS State=UNKNOWN
NodeName=ci1 NodeHostname=localhost NodeAddr=127.0.0.1 Port=16819 CPUs=8 RealMemory=256000 Gres=gpu:1 State=UNKNOWN
PartitionName=cpu Nodes=ci0 Default=YES MaxTime=1-00:00:00 State=UP
PartitionName=gpu Nodes=ci0 MaxTime=4-00:00:00 State=UP
PartitionName=spot Nodes=ci1 MaxTime=4-00:00:00 PriorityTier=1 State=UP
PartitionName=urgent Nodes=ci1 MaxTime=1:00:00 PriorityTier=10 State=UP
END
  cat > "${CONF%/*}/gres.conf" << END
AutoDetect=off
NodeName=ci0 Name=gpu File=$FOLDER/dev/nvidia[0-$((GPUS - 1))]
NodeName=ci1 Name=gpu File=$FOLDER/dev/nvidia$GPUS
END
  if ! pgrep -x munged > /dev/null; then
    install -d -o munge -g munge -m 0755 /run/munge
    runuser -u munge -- munged > /dev/null 2>&1
    touch "$FOLDER/munged.ours"
  fi
  slurmctld -c > /dev/null 2>&1
  slurmd -N ci0 > /dev/null 2>&1
  slurmd -N ci1 > /dev/null 2>&1
  for _ in $(seq 100); do
    if [ "$(timeout 2 sinfo -h -N -p cpu,spot -o %T 2> /dev/null | sort -u)" = idle ]; then echo "slurm: idle"; return; fi
    sleep 0.1
  done
  echo "slurm: expected idle nodes after 10 s, found $(timeout 2 sinfo -h -o %T 2>&1 | sort -u | tr '\n' ' ')" >&2
  for log in "$FOLDER"/log/*.log; do tail -n 20 "$log" >&2; done
  stop
  exit 1
}

end() { # ends the process of a pid file and waits for it; after a restart the number may be somebody else's
  local pid
  pid=$(cat "$1" 2> /dev/null) || return 0
  case "$(cat "/proc/$pid/comm" 2> /dev/null)" in slurmctld | slurmd | munged) ;; *) rm -f "$1"; return 0 ;; esac
  kill "$pid" 2> /dev/null || true
  for _ in $(seq 50); do
    if ! kill -0 "$pid" 2> /dev/null; then break; fi
    sleep 0.1
  done
  kill -9 "$pid" 2> /dev/null || true
  rm -f "$1"
}

ours() { grep -q 'kdmvs .ci/slurm.sh' "$CONF" 2> /dev/null; }

stop() {
  if ! ours; then return; fi
  timeout 5 scancel --state=RUNNING --user=root 2> /dev/null || true
  timeout 5 scancel --state=PENDING --user=root 2> /dev/null || true
  for _ in $(seq 100); do
    if [ -z "$(timeout 2 squeue -h 2> /dev/null)" ]; then break; fi
    sleep 0.1
  done
  end "$FOLDER/ci0.pid"
  end "$FOLDER/ci1.pid"
  end "$FOLDER/slurmctld.pid"
  if [ -e "$FOLDER/munged.ours" ]; then end /run/munge/munged.pid; fi
  rm -f "$CONF" "${CONF%/*}/gres.conf"
  rm -rf "$FOLDER"
}

case "${1:-}" in
  install) install_packages ;;
  start) start ;;
  stop) stop ;;
  *)
    echo "usage: $0 install | start | stop" >&2
    exit 2
    ;;
esac
