# syntax=docker/dockerfile:1
# SwarmTune with the embedded llama.cpp engine: docker build -t swarmtune . && docker run --rm swarmtune optimizer
FROM python:3.11-slim AS build

ENV UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy UV_PYTHON_DOWNLOADS=never
WORKDIR /opt/swarmtune
COPY .ci/uv.txt ./
RUN pip install --no-cache-dir --require-hashes -r uv.txt

# The dependencies alone first: they change less often than the code.
COPY pyproject.toml uv.lock README.md LICENSE ./
RUN uv sync --frozen --no-dev --group build --group weights --extra all --no-install-project

COPY src ./src
RUN uv sync --frozen --no-dev --group build --group weights --extra all --no-editable


FROM python:3.11-slim AS run

RUN useradd --create-home --uid 10001 swarmtune
COPY --from=build --chown=root:root /opt/swarmtune/.venv /opt/swarmtune/.venv
ENV PATH="/opt/swarmtune/.venv/bin:$PATH" PYTHONUNBUFFERED=1

USER 10001:10001
# Studies and config.toml live here; mount a volume to keep them.
WORKDIR /home/swarmtune
# The supervisor ends what it started; --init of docker run, or this stop signal, reaches the tuner itself.
STOPSIGNAL SIGTERM
ENTRYPOINT ["swarmtune"]
CMD ["--help"]
