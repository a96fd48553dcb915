# The worker: loads candidates, measures, signs.
# From the repository root:  docker build -f deploy/images/worker.Dockerfile -t registry-gate-worker:0.1.0 .
#
# CPU by default. For NVIDIA GPUs take a base with CUDA 13, cuDNN 9 and Python 3.11, and torch's own CUDA wheels:
#   docker build -f deploy/images/worker.Dockerfile -t registry-gate-worker:0.1.0-cuda \
#     --build-arg BASE=<your CUDA runtime image with python3.11> --build-arg TORCH_INDEX=https://pypi.org/simple .
# Give the container the GPU (compose: `gpus: all`) and set REGISTRY_GATE_DEVICE=cuda, which fails when there is none.
ARG BASE=python:3.11-slim

FROM ${BASE} AS build
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu

COPY pyproject.toml README.md constraints.txt /src/
COPY registry_gate /src/registry_gate
COPY evaluators /src/evaluators
COPY policies /src/policies
RUN python3.11 -m venv /opt/registry-gate-worker \
 && /opt/registry-gate-worker/bin/pip install --no-cache-dir --constraint /src/constraints.txt \
      --extra-index-url "${TORCH_INDEX}" "/src[worker,postgresql]"

FROM ${BASE}

RUN groupadd --gid 10002 worker \
 && useradd --uid 10002 --gid worker --no-create-home --home-dir /tmp --shell /usr/sbin/nologin worker \
 && install -d -o worker -g worker -m 0700 /var/lib/registry-gate-worker
COPY --from=build /opt/registry-gate-worker /opt/registry-gate-worker

# REGISTRY_GATE_LEDGER_URI, REGISTRY_GATE_TRACKING_URI and REGISTRY_GATE_SIGNING_KEY have to be given.
ENV PATH=/opt/registry-gate-worker/bin:$PATH \
    HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    REGISTRY_GATE_POLICIES=/etc/registry-gate/policies \
    REGISTRY_GATE_WORK_DIR=/var/lib/registry-gate-worker

USER worker
WORKDIR /var/lib/registry-gate-worker

# Settings, policies, ledger, key, sign of life, and the server from outside. Every five minutes: it walks the audit chain.
HEALTHCHECK --interval=5m --timeout=60s --start-period=2m --retries=2 CMD ["registry-gate", "doctor"]

CMD ["registry-gate", "worker"]
