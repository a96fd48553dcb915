#!/bin/bash
# Runs once, when the postgres image makes its data directory: two roles, neither a superuser.
#   mlflow   the server's; owns MLflow's tables and the ledger's
#   worker   gets rights on the ledger alone, from worker-grants.sql
set -euo pipefail

psql --set ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname postgres \
  --set mlflow_password="$(cat /run/secrets/db-mlflow-password)" \
  --set worker_password="$(cat /run/secrets/db-worker-password)" <<'SQL'
CREATE ROLE mlflow LOGIN PASSWORD :'mlflow_password';
CREATE ROLE worker LOGIN PASSWORD :'worker_password';
CREATE DATABASE mlflow OWNER mlflow;
REVOKE ALL ON DATABASE mlflow FROM PUBLIC;
GRANT CONNECT ON DATABASE mlflow TO worker;
SQL
