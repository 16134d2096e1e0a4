#!/usr/bin/env bash
# What tests/slurm needs of Debian's and Ubuntu's packages: a Slurm that runs on this machine alone. As root.
set -euo pipefail
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -y -qq --no-install-recommends munge slurmctld slurmd slurm-client
