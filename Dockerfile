# syntax=docker/dockerfile:1
# Targets: agent (the last one, the default) and numbers (the example service).

FROM rust:1.95-slim-bookworm AS build
WORKDIR /src
RUN apt-get update \
    && apt-get install --yes --no-install-recommends build-essential cmake \
    && rm -rf /var/lib/apt/lists/*

# The dependencies, with empty sources: a layer that is rebuilt only if Cargo.toml or Cargo.lock
# changes.
COPY Cargo.toml Cargo.lock ./
COPY examples/service/Cargo.toml examples/service/
RUN mkdir -p src benches examples/service/src \
    && for file in build.rs src/main.rs benches/fleet.rs examples/service/src/main.rs; do echo 'fn main() {}' >"$file"; done \
    && touch src/lib.rs examples/service/src/lib.rs \
    && cargo build --release --locked \
    && rm -r build.rs src benches examples/service/src

COPY build.rs ./
COPY src src
COPY benches benches
COPY examples/service/src examples/service/src
# The image is built without the repository: docker build --build-arg COMMIT=$(git rev-parse --short=12 HEAD)
ARG COMMIT=""
# The copied sources are older than the build of the empty ones.
RUN find build.rs src benches examples/service/src -name '*.rs' -exec touch {} + \
    && PREFECT_OTEL_AGENT_COMMIT="$COMMIT" cargo build --release --locked \
    && mkdir /state

# No shell, no package manager: glibc, CA certificates and the binary, as user 65532.
FROM gcr.io/distroless/cc-debian12:nonroot AS numbers
COPY --from=build /src/target/release/numbers /usr/local/bin/numbers
EXPOSE 8080
HEALTHCHECK --interval=15s --timeout=5s --start-period=10s --retries=3 \
    CMD ["/usr/local/bin/numbers", "health"]
ENTRYPOINT ["/usr/local/bin/numbers"]

FROM gcr.io/distroless/cc-debian12:nonroot AS agent
COPY --from=build /src/target/release/prefect-otel-agent /usr/local/bin/prefect-otel-agent
# A volume mounted here takes its owner from this folder. STATE_DIR is not set: in a folder that is
# deleted with the container, each container would get a new service.instance.id.
COPY --from=build --chown=65532:65532 /state /state
EXPOSE 8000
HEALTHCHECK --interval=15s --timeout=5s --start-period=30s --retries=3 \
    CMD ["/usr/local/bin/prefect-otel-agent", "health"]
ENTRYPOINT ["/usr/local/bin/prefect-otel-agent"]
