# The MLflow server with the gate in it. Without the extra `worker`: what loads candidates does not belong here.
# From the repository root:  docker build -f deploy/images/gate.Dockerfile -t registry-gate:0.1.0 .
FROM python:3.11-slim AS build

COPY pyproject.toml README.md constraints.txt /src/
COPY registry_gate /src/registry_gate
COPY evaluators /src/evaluators
COPY policies /src/policies
RUN python -m venv /opt/registry-gate \
 && /opt/registry-gate/bin/pip install --no-cache-dir --constraint /src/constraints.txt "/src[postgresql]"
# The promise above, kept or the build fails.
RUN /opt/registry-gate/bin/python -c "import importlib.util as i, sys; \
sys.exit([n for n in ('torch', 'transformers', 'onnxruntime') if i.find_spec(n)] or 0)"

FROM python:3.11-slim

RUN groupadd --gid 10001 gate \
 && useradd --uid 10001 --gid gate --no-create-home --home-dir /tmp --shell /usr/sbin/nologin gate \
 && install -d -o gate -g gate -m 0750 /var/lib/registry-gate /var/lib/registry-gate/artifacts
COPY --from=build /opt/registry-gate /opt/registry-gate
COPY deploy/is_gated.py /opt/registry-gate/is_gated.py

# MLFLOW_BACKEND_STORE_URI has to be given, without a password in it (see deploy/README.md).
# Job subprocesses of MLflow carry the raw database address in their environment; the gate needs none.
ENV PATH=/opt/registry-gate/bin:$PATH \
    HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    MLFLOW_ARTIFACTS_DESTINATION=/var/lib/registry-gate/artifacts \
    MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false \
    MLFLOW_SERVER_ENABLE_CUSTOM_SCORERS=false \
    MLFLOW_WORKERS=4 \
    REGISTRY_GATE_POLICIES=/etc/registry-gate/policies

USER gate
WORKDIR /var/lib/registry-gate
EXPOSE 5000

# Is it gated? Not: is it up. MLflow's /health says 200 without the gate too.
HEALTHCHECK --interval=30s --timeout=15s --start-period=90s --retries=3 \
    CMD ["python", "/opt/registry-gate/is_gated.py", "http://127.0.0.1:5000"]

# `gated:` stands here, twice, and in no variable, so that it cannot be forgotten.
CMD ["sh", "-c", "exec mlflow server --backend-store-uri \"${MLFLOW_BACKEND_STORE_URI:?}\" --registry-store-uri \"gated:${MLFLOW_BACKEND_STORE_URI}\" --artifacts-destination \"gated:${MLFLOW_ARTIFACTS_DESTINATION}\" --host 0.0.0.0 --port 5000 --workers \"${MLFLOW_WORKERS}\""]
