# Targets: agent (the last and default one) and numbers (the example service). Each is built in its
# own stage, so --target agent does not build the example service.

FROM gcr.io/distroless/cc-debian13:nonroot@sha256:54df941ed0d06a1bd95ef5e0ce391fd8d9f94b64782dc9a60062727849ee3f97 AS runtime
# No shell, no package manager: glibc, CA certificates and the binary, as user 65532.

# The same Debian release as the runtime image, because the binaries need its glibc. The image has
# Rust and a C compiler; jemalloc is built with make.
FROM rust:1.95.0-slim-trixie@sha256:e14e87345b4d5964ddcc3491d27ee046a0f23820f340c3c1e24da6880141f7c0 AS manifests
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends make && rm -rf /var/lib/apt/lists/*
# Some distributions for ARM have pages of 64 KiB; jemalloc must not assume smaller ones.
ENV AARCH64_UNKNOWN_LINUX_GNU_JEMALLOC_SYS_WITH_LG_PAGE=16
# As in .cargo/config.toml.
ENV JEMALLOC_SYS_WITH_MALLOC_CONF=dirty_decay_ms:1000,narenas:2
WORKDIR /src
# The workspace with empty sources: this builds only the dependencies, in layers that are rebuilt
# only if Cargo.toml or Cargo.lock changes.
COPY Cargo.toml Cargo.lock ./
COPY examples/service/Cargo.toml examples/service/
RUN mkdir -p src benches examples/service/src \
    && for file in build.rs src/main.rs benches/beside.rs benches/fleet.rs benches/instructions.rs benches/time.rs examples/service/src/main.rs; do echo 'fn main() {}' >"$file"; done \
    && touch src/lib.rs examples/service/src/lib.rs

FROM manifests AS numbers-build
RUN cargo build --release --locked --package numbers
COPY examples/service/src examples/service/src
# The copied sources are older than the build of the empty ones: touch them to rebuild.
RUN find examples/service/src -name '*.rs' -exec touch {} + \
    && cargo build --release --locked --package numbers

FROM manifests AS agent-build
RUN cargo build --release --locked --package prefect-otel-agent
COPY build.rs ./
COPY src src
# The commit that --version shows, since the build context has no Git repository.
ARG COMMIT=""
RUN find build.rs src -name '*.rs' -exec touch {} + \
    && PREFECT_OTEL_AGENT_COMMIT="$COMMIT" cargo build --release --locked --package prefect-otel-agent \
    && mkdir /state

FROM runtime AS numbers
COPY --from=numbers-build /src/target/release/numbers /usr/local/bin/numbers
EXPOSE 8080
HEALTHCHECK --interval=15s --timeout=5s --start-period=10s --retries=3 \
    CMD ["/usr/local/bin/numbers", "health"]
ENTRYPOINT ["/usr/local/bin/numbers"]
ARG COMMIT=""
LABEL org.opencontainers.image.title="numbers" \
    org.opencontainers.image.description="A small REST service that is instrumented with OpenTelemetry, as an example" \
    org.opencontainers.image.version="0.1.0" \
    org.opencontainers.image.revision="$COMMIT" \
    org.opencontainers.image.licenses="Apache-2.0" \
    org.opencontainers.image.base.name="gcr.io/distroless/cc-debian13:nonroot"

FROM runtime AS agent
COPY --from=agent-build /src/target/release/prefect-otel-agent /usr/local/bin/prefect-otel-agent
# A volume that is mounted here takes over the owner of this folder. STATE_DIR is not set: with a
# folder that is deleted with the container, each container would get a new service.instance.id.
COPY --from=agent-build --chown=65532:65532 /state /state
EXPOSE 8000
# Queries /healthz, which only checks the process: an outage of Prefect does not make the container
# unhealthy.
HEALTHCHECK --interval=15s --timeout=5s --start-period=30s --retries=3 \
    CMD ["/usr/local/bin/prefect-otel-agent", "health"]
ENTRYPOINT ["/usr/local/bin/prefect-otel-agent"]
ARG COMMIT=""
LABEL org.opencontainers.image.title="prefect-otel-agent" \
    org.opencontainers.image.description="Push-based OpenTelemetry metrics agent for Prefect 3: OTLP push, Prometheus pull bridge" \
    org.opencontainers.image.version="0.1.0" \
    org.opencontainers.image.revision="$COMMIT" \
    org.opencontainers.image.licenses="Apache-2.0" \
    org.opencontainers.image.base.name="gcr.io/distroless/cc-debian13:nonroot"
