# The gateway alone: Postgres and Redis are elsewhere, see docker-compose.yml. Everything installed is in the hashed lock.
ARG PYTHON_IMAGE=python:3.12-slim
FROM ${PYTHON_IMAGE} AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
RUN python -m venv /opt/metergate
COPY requirements/runtime.lock requirements/runtime.lock
RUN /opt/metergate/bin/pip install --require-hashes -r requirements/runtime.lock
COPY pyproject.toml README.md LICENSE ./
COPY billing billing
COPY gateway gateway
COPY docs docs
COPY metergate metergate
RUN /opt/metergate/bin/pip install --no-deps --no-build-isolation .

FROM ${PYTHON_IMAGE}
RUN useradd --system --uid 10001 --home-dir /var/lib/metergate --create-home metergate
COPY --from=build /opt/metergate /opt/metergate
COPY gateway/config/shipped /app/config
ENV PATH=/opt/metergate/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    LISTEN_ADDR=0.0.0.0:8080 \
    METERGATE_CONFIG=/app/config \
    METERGATE_DATA_DIR=/var/lib/metergate
WORKDIR /app
USER metergate
EXPOSE 8080 9090
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/healthz', timeout=2)"]
CMD ["metergate", "serve"]
