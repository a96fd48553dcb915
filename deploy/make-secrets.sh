#!/bin/bash
# Make the secrets of compose.yaml in DIRECTORY, each readable by the one user that needs it. Overwrites nothing.
#   sudo deploy/make-secrets.sh /srv/registry-gate/secrets /srv/registry-gate/keys
# Compose mounts a secret with the owner and mode of its file, so both are set here: 999 is the postgres image's user,
# 10001 the gate's, 10002 the worker's.
set -euo pipefail
umask 077

directory=${1:?expected a directory}
keys=${2:?expected the directory of keys that registry-gate init made}
gate=10001 worker=10002 postgres=999

for key in worker.key gate.key; do
  test -f "$keys/$key" || { echo "expected $keys/$key, got no such file: make it with registry-gate init" >&2; exit 2; }
done
mkdir "$directory"                 # fails when it is there: passwords in use are never replaced
password() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }
write() { # OWNER NAME TEXT
  printf '%s\n' "$3" > "$directory/$2"
  chmod 0400 "$directory/$2"
  chown "$1:$1" "$directory/$2"
}

mlflow_password=$(password)
worker_password=$(password)
write $postgres db-postgres-password "$(password)"
write $postgres db-mlflow-password "$mlflow_password"
write $postgres db-worker-password "$worker_password"
# libpq ignores a password file that others may read.
write $gate mlflow.pgpass "db:5432:mlflow:mlflow:$mlflow_password"
write $postgres grants.pgpass "db:5432:mlflow:mlflow:$mlflow_password"
write $worker worker.pgpass "db:5432:mlflow:worker:$worker_password"
# Neither accepts a signing key that its group or others may read. Each has its own, and cannot read the other's.
install -o $worker -g $worker -m 0400 "$keys/worker.key" "$directory/worker.key"
install -o $gate -g $gate -m 0400 "$keys/gate.key" "$directory/gate.key"
rm "$keys/worker.key" "$keys/gate.key"
echo "made $directory; the signing keys were moved there from $keys (gate.pem stays: it is public)"
