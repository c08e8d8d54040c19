#!/usr/bin/env bash
# The state of a Slurm job in the three words that Snakemake knows. A controller that does not answer is asked again.
set -euo pipefail
if ! job=$(scontrol -o show job "$1" 2>&1); then
  case $job in
    *"Invalid job id"*) echo failed ;;
    *) echo running ;;
  esac
  exit
fi
case $(sed -n 's/.* JobState=\([A-Z_]*\).*/\1/p' <<< "$job") in
  COMPLETED) echo success ;;
  PENDING | CONFIGURING | RUNNING | COMPLETING | SUSPENDED | REQUEUED | RESIZING | STOPPED | SIGNALING | STAGE_OUT) echo running ;;
  *) echo failed ;; # also PREEMPTED: a cluster that cancels instead of requeuing; the retry resumes
esac
