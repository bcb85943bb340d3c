# An image with hpcseg (docs/containers.md):  docker build -t hpcseg .
# Without GPUs, far smaller:  docker build --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cpu -t hpcseg .
FROM python:3.13.7-slim-bookworm AS build
WORKDIR /src
COPY constraints.txt pyproject.toml setup.py README.md LICENSE ./
COPY hpcseg hpcseg
COPY sweeps sweeps
COPY jobs jobs
RUN pip install --no-cache-dir --constraint constraints.txt setuptools \
    && pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /wheels .

FROM python:3.13.7-slim-bookworm
ARG TORCH=2.13.0
ARG TORCH_INDEX=https://pypi.org/simple
# Triton, in which the GPU kernels are written, compiles a few lines of C where it runs.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/* \
    && pip install --no-cache-dir --index-url "$TORCH_INDEX" "torch==$TORCH"
COPY --from=build /src/constraints.txt /wheels/
COPY --from=build /wheels /wheels
RUN pip install --no-cache-dir --constraint /wheels/constraints.txt "$(echo /wheels/*.whl)[compression]" \
    && useradd --create-home --uid 1000 hpcseg
USER 1000
WORKDIR /work
ENTRYPOINT ["hpcseg"]
CMD ["--help"]
