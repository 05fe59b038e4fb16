# The gateway as its wheel and what the lock file names, for running it in containers.
#
# Any image with Python 3.11 or later and its `venv` will do as the base; x86-64 and arm64 alike. The digest is that of the
# index for all platforms, so what is built does not change by itself. Take a newer one for each release:
#   docker buildx imagetools inspect python:3.11-slim-bookworm
ARG BASE=docker.io/library/python:3.11-slim-bookworm@sha256:a36c24f9cbdf4fd0f52d67f0823eeac19c2028c637cecc392d97f980d4fec56b

FROM ${BASE} AS build
ENV UV_LINK_MODE=copy \
    UV_NO_CACHE=1 \
    UV_PROJECT_ENVIRONMENT=/opt/gateway \
    UV_PYTHON_DOWNLOADS=never
WORKDIR /src
COPY requirements-build.txt ./
RUN python3 -m venv /opt/build \
    && /opt/build/bin/pip install --no-cache-dir --require-hashes --only-binary=:all: --requirement=requirements-build.txt
# What it depends on changes more seldom than it does: a layer of its own. Each file's hash is checked.
COPY pyproject.toml uv.lock ./
RUN /opt/build/bin/uv sync --frozen --no-dev --extra tracing --no-install-project --no-build --compile-bytecode --python=python3
COPY README.md LICENSE ./
COPY gateway gateway
# The simulator has no place in production, nor has what it would need.
RUN /opt/build/bin/uv build --wheel --no-build-isolation --python=/opt/build/bin/python --out-dir=/wheel \
    && /opt/build/bin/uv pip install --no-deps --offline --compile-bytecode --python=/opt/gateway/bin/python /wheel/*.whl \
    && rm -r /opt/gateway/lib/python3.*/site-packages/gateway/sandbox /opt/gateway/.lock

# The simulated VideoSDK of compose.yaml, built only where it is asked for (`--target sandbox`): the same wheel with the
# simulator left in it. Nothing of it is in the gateway's image below.
FROM build AS sandbox-build
RUN /opt/build/bin/uv sync --frozen --no-dev --inexact --extra sandbox --no-install-project --no-build --python=python3 \
    && /opt/build/bin/uv pip install --no-deps --offline --reinstall --python=/opt/gateway/bin/python /wheel/*.whl \
    && rm -f /opt/gateway/.lock

FROM ${BASE} AS sandbox
ENV PATH=/opt/gateway/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
COPY --from=sandbox-build /opt/gateway /opt/gateway
USER 10001:10001
EXPOSE 8090
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s CMD ["/opt/gateway/bin/python", "-I", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8090/_control/deliveries', timeout=3)"]
ENTRYPOINT ["/opt/gateway/bin/python", "-m", "gateway.sandbox.simulator", "--host", "0.0.0.0", "--port", "8090"]

FROM ${BASE}
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="recording-gateway" \
    org.opencontainers.image.description="Starts and stops VideoSDK recordings, exactly once" \
    org.opencontainers.image.licenses="MIT" \
    org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.revision="${REVISION}"
ENV GATEWAY_HOST=0.0.0.0 \
    PATH=/opt/gateway/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
COPY --from=build /opt/gateway /opt/gateway
# A number, so that Kubernetes can tell that it is not root. Nothing here belongs to it, and it needs to write nowhere.
USER 10001:10001
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s CMD ["/opt/gateway/bin/python", "-I", "-m", "gateway.serving.healthcheck"]
ENTRYPOINT ["/opt/gateway/bin/gateway"]
CMD ["serve"]
