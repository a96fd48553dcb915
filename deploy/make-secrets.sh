#!/bin/bash
# Make the secrets of compose.yaml in DIRECTORY, each readable by the one user that needs it. Overwrites nothing.
#   sudo deploy/make-secrets.sh /srv/registry-gate/secrets /srv/registry-gate/keys/worker.key
# Compose mounts a secret with the owner and mode of its file, so both are set here: 999 is the postgres image's user,
# 10001 the gate's, 10002 the worker's.
set -euo pipefail
umask 077

directory=${1:?expected a directory}
key=${2:?expected the signing key that registry-gate init made}
gate=10001 worker=10002 postgres=999

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
# The worker refuses a signing key that its group or others may read.
install -o $worker -g $worker -m 0400 "$key" "$directory/worker.key"
rm "$key"
echo "made $directory; the signing key was moved there from $key"
