#!/usr/bin/env bash
# The state of a Slurm job in the three words that Snakemake knows.
set -euo pipefail
state=$(scontrol -o show job "$1" | sed -n 's/.* JobState=\([A-Z_]*\).*/\1/p')
case $state in
  COMPLETED) echo success ;;
  PENDING | CONFIGURING | RUNNING | COMPLETING | SUSPENDED | REQUEUED | RESIZING) echo running ;;
  *) echo failed ;;
esac
