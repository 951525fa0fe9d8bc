# fedtoll with all it needs. `docker build -t fedtoll . && docker run --rm fedtoll` runs `make demo`.
FROM python:3.11-slim

RUN apt-get update \
    && apt-get install --yes --no-install-recommends make \
    && rm -rf /var/lib/apt/lists/*

ENV FLWR_TELEMETRY_ENABLED=0 \
    FLWR_DISABLE_UPDATE_CHECK=1 \
    FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION=1 \
    RAY_USAGE_STATS_ENABLED=0 \
    OMP_NUM_THREADS=1 \
    PATH=/app/.venv/bin:$PATH

WORKDIR /app
COPY . .
RUN make .venv/.installed

CMD ["make", "demo"]
