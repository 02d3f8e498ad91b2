# Both programs, a target each; for BuildKit and for the classic builder.
#
#   docker build --target server -t craft-server .
#   docker build --target tuner -t craft-tuner .
#
# --build-arg BASE=...           an image with python3 (3.11 or newer) and its venv module; its
#                                certificates are the ones trusted
# --build-arg TORCH_BACKEND=...  what `uv pip install --torch-backend` takes: cpu (default), cu130,
#                                rocm6.4, ...; empty takes the wheels of the package index, which
#                                are CUDA's on x86_64
ARG BASE=python:3.12-slim-bookworm

# --- what both need, in an environment that has no pip -------------------------------------------
FROM ${BASE} AS build
LABEL craft.stage=build
ENV VIRTUAL_ENV=/venv PATH=/uv/bin:$PATH UV_CONSTRAINT=/src/constraints.txt \
    UV_NO_CACHE=1 UV_NO_PROGRESS=1 UV_SYSTEM_CERTS=1 UV_HTTP_TIMEOUT=300
RUN python3 -m venv /uv \
    && /uv/bin/pip install --quiet --no-cache-dir --disable-pip-version-check uv==0.13.9 \
    && uv venv --quiet --no-python-downloads --python "$(command -v python3)" /venv
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
ARG TORCH_BACKEND=cpu
RUN uv pip install --quiet ${TORCH_BACKEND:+--torch-backend=${TORCH_BACKEND}} \
    torch numpy pydantic safetensors
COPY shared/ shared/

# --- the tuner -----------------------------------------------------------------------------------
FROM build AS build-tuner
RUN uv pip install --quiet ${TORCH_BACKEND:+--torch-backend=${TORCH_BACKEND}} \
    -r pyproject.toml --extra tuner
COPY tuner/ tuner/
RUN mkdir -p server/craft_server && uv pip install --quiet --no-deps . \
    && rm -rf /venv/lib/python3*/site-packages/craft_server /venv/bin/craft-server \
    && find /venv -type d '(' -name test -o -name tests -o -path '*/torch/include' ')' -prune -exec rm -rf {} +

FROM ${BASE} AS tuner
RUN useradd --uid 10001 --create-home craft && mkdir /work && chown craft:craft /work
COPY --from=build-tuner /venv /venv
USER 10001:10001
WORKDIR /work
VOLUME /work
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 MPLCONFIGDIR=/tmp/matplotlib
STOPSIGNAL SIGTERM
ENTRYPOINT ["craft-tuner"]
CMD ["--help"]

# --- the server ----------------------------------------------------------------------------------
FROM build AS build-server
RUN uv pip install --quiet ${TORCH_BACKEND:+--torch-backend=${TORCH_BACKEND}} \
    -r pyproject.toml --extra server --extra postgres --extra otel --extra s3
COPY server/ server/
RUN mkdir -p tuner/craft_tuner && uv pip install --quiet --no-deps . \
    && rm -rf /venv/lib/python3*/site-packages/craft_tuner /venv/bin/craft-tuner \
    && find /venv -path '*/botocore/data/*' -name 'examples-*.json' -delete \
    && find /venv -type d '(' -name test -o -name tests -o -path '*/torch/include' ')' -prune -exec rm -rf {} +

FROM ${BASE} AS server
RUN useradd --uid 10001 --create-home craft && mkdir /data /models && chown craft:craft /data /models
COPY --from=build-server /venv /venv
USER 10001:10001
VOLUME /data /models
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    HF_HOME=/models \
    CRAFT_SERVER_HOST=0.0.0.0 \
    CRAFT_SERVER_PORT=8000 \
    CRAFT_SERVER_METRICS_PORT=9464 \
    CRAFT_SERVER_DATA_DIR=/data
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=10m --retries=3 \
    CMD ["python3", "-c", "import os, urllib.request as u; u.urlopen(f'http://127.0.0.1:{os.environ[\"CRAFT_SERVER_METRICS_PORT\"]}/readyz', timeout=4)"]
CMD ["craft-server", "serve"]
