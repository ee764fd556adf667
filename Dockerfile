# The gateway's image: workers, settler, control and what keeps their configuration. Envoy has its own image; the chart in
# helm/ puts them side by side. The steps are in docker/build-root.sh, which the tests run too.
#
#   docker build -t llm-gateway:0.1.0 .
#
# The base image is pinned by version. To pin it by content as well:
#   docker build --build-arg PYTHON=3.11.14-slim-trixie@sha256:… .
ARG PYTHON=3.11.14-slim-trixie

FROM python:${PYTHON} AS build
WORKDIR /src
RUN apt-get update && apt-get install --yes --no-install-recommends binutils && rm -rf /var/lib/apt/lists/*
# uv of the version and with the hashes of the lock
COPY requirements-dev.lock ./
RUN awk '/^[^ ]/ {keep = /^uv==/} keep' requirements-dev.lock > uv.txt \
    && pip install --no-cache-dir --no-deps --require-hashes --requirement uv.txt
COPY docker/build-root.sh docker/
COPY requirements.lock ./
RUN docker/build-root.sh packages /tree
COPY pyproject.toml README.md gateway.demo.yaml ./
COPY envoy envoy
COPY protos protos
COPY extproc extproc
COPY control control
RUN docker/build-root.sh gateway /tree

FROM python:${PYTHON}
ENV PATH=/opt/gateway/bin:/usr/local/bin:/usr/bin:/bin
ENV PYTHONPATH=/opt/gateway/lib
ENV PYTHONDONTWRITEBYTECODE=1
ENV PYTHONUNBUFFERED=1
COPY --from=build /tree/ /
USER 65532:65532
ENTRYPOINT ["gateway"]
CMD ["--help"]
